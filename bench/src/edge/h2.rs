//! As much HTTP/2 as a client needs that makes one call at a time or reads one stream: frames to the byte,
//! header fields by HPACK without Huffman. Windows are opened wide at once.

use bytes::{Buf, BytesMut};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Entries of HPACK's static table; those that we add follow.
const STATIC: usize = 61;

/// What begins a connection: the preface, our settings, and an open window.
pub(super) fn preface() -> Vec<u8> {
    const WINDOW: u32 = 0x7fff_0000;
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // The initial window of streams.
    let settings = [&4u16.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat();
    frame(&mut out, SETTINGS, 0, 0, &settings);
    frame(&mut out, 8, 0, 0, &WINDOW.to_be_bytes());
    out
}

/// Header fields, which the other side remembers from the first call on.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Those of a POST to this path.
    pub(super) fn post(path: &str, kind: &str) -> Self {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", kind),
            ("te", "trailers"),
        ];
        Self(fields.map(|(name, value)| (name.into(), value.into())).into())
    }

    /// A call of one message, which is the whole request.
    pub(super) fn call(&self, stream: u32, message: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        for (i, (name, value)) in self.0.iter().enumerate() {
            if stream == 1 {
                // A literal that is added to the table, with a new name.
                block.push(0x40);
                for text in [name, value] {
                    block.push(text.len() as u8);
                    block.extend_from_slice(text.as_bytes());
                }
            } else {
                block.push(0x80 | (STATIC + self.0.len() - i) as u8);
            }
        }
        let mut out = Vec::new();
        frame(&mut out, HEADERS, END_HEADERS, stream, &block);
        frame(&mut out, DATA, END_STREAM, stream, &super::dialect::enveloped(message));
        out
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// What frames say that matter here.
#[derive(Default, Debug)]
pub(super) struct Said {
    /// A stream ended.
    pub(super) ended: bool,
    /// It ended without a message.
    pub(super) refused: bool,
    /// What is to be sent back.
    pub(super) answer: Vec<u8>,
}

/// Takes all whole frames. `messages` notes whether data came for the call that is under way.
pub(super) fn take(read: &mut BytesMut, messages: &mut bool) -> Said {
    let mut said = Said::default();
    while read.len() >= 9 {
        let size = u32::from_be_bytes([0, read[0], read[1], read[2]]) as usize;
        if read.len() < 9 + size {
            break;
        }
        let (kind, flags) = (read[3], read[4]);
        // Headers that end the stream are trailers, but where no data came before them a refusal.
        if kind == HEADERS && flags & END_STREAM != 0 {
            said.ended = true;
            said.refused = !std::mem::take(messages);
        }
        *messages |= kind == DATA && size > 0;
        if kind == SETTINGS && flags & ACK == 0 {
            frame(&mut said.answer, SETTINGS, ACK, 0, &[]);
        }
        if kind == PING && flags & ACK == 0 {
            frame(&mut said.answer, PING, ACK, 0, &read[9..9 + size]);
        }
        read.advance(9 + size);
    }
    said
}
