//! One server that we listen to: what comes from it, and asking it for channels.

use super::{ShardId, fault};
use crate::{Error, redis::shards::Shard};
use fred::{
    bytes_utils::Str,
    clients::Client,
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{ClusterHash, CustomCommand, Message, Value},
};
use futures::{
    StreamExt,
    future::try_join_all,
    stream::{BoxStream, select},
};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tokio_util::sync::CancellationToken;

/// Channels asked for at once; below the bound of the connection's own queue.
const BATCH: usize = 256;

/// One server.
pub(super) struct Desk {
    pub(super) client: Client,
    /// Ends what is heard of it.
    pub(super) gone: CancellationToken,
    /// Rises with each connection; what was asked for on an older one says nothing.
    pub(super) connection: u64,
    /// The work that asks for channels again.
    pub(super) restoring: Option<AbortHandle>,
}

/// What comes from a server.
pub(super) enum Heard {
    Message(Message),
    Lagged(u64),
    Reconnected,
}

impl Desk {
    pub(super) fn new(shard: &Shard) -> Self {
        let client = shard.live.client().clone();
        Self { client, gone: CancellationToken::new(), connection: 0, restoring: None }
    }

    /// All that comes from the server, until it is gone.
    pub(super) fn listen(&self, shard: &Shard) -> BoxStream<'static, (ShardId, Heard)> {
        let id = shard.id;
        let messages = BroadcastStream::new(self.client.message_rx()).map(|message| match message {
            Ok(message) => Heard::Message(message),
            Err(BroadcastStreamRecvError::Lagged(lost)) => Heard::Lagged(lost),
        });
        let reconnects = BroadcastStream::new(self.client.reconnect_rx()).map(|_| Heard::Reconnected);
        let all = select(messages, reconnects).map(move |heard| (id, heard));
        Box::pin(all.take_until(self.gone.clone().cancelled_owned()))
    }
}

/// Asks for channels and puts a PING behind them: when that is answered, Redis has them all. Each goes
/// as a command of its own, since the client library reads one answer per command.
pub(super) async fn ask_for_all(client: &Client, channels: &[Str]) -> Result<(), Error> {
    let read = |fault| fault::read(&fault);
    for batch in channels.chunks(BATCH) {
        try_join_all(batch.iter().map(|channel| client.ssubscribe(channel.clone()))).await.map_err(read)?;
    }
    barrier(client).await.map_err(read)
}

/// Lets a channel go. What was published to it before is among what was heard once this is answered.
pub(super) async fn let_go(client: &Client, channel: Str) -> Result<(), fred::error::Error> {
    client.sunsubscribe(channel).await?;
    barrier(client).await
}

async fn barrier(client: &Client) -> Result<(), fred::error::Error> {
    let ping = CustomCommand::new_static("PING", ClusterHash::FirstKey, false);
    client.custom::<Value, _>(ping, Vec::<Value>::new()).await.map(|_| ())
}
