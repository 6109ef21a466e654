//! What operators do: API keys and revocations, which every gateway reads from the store, and the version; what
//! they see of the fleet is told in `fleet`.
//! Each namespace looks after its own; callers of the operators' namespace after all.

use super::{Context, Service, page::Page, respond, unavailable, wrong};
use crate::{
    grant::{Grants, Written},
    key,
    router::Failure,
    vault,
};
use plexus_bus::{Frame, When};
use plexus_proto::{reason::Reason, v1};
use std::time::{Duration, SystemTime};
use tonic::{Request, Response, Status};

/// Tells the version, to everybody.
pub(super) const VERSION: &str = "/plexus.v1.AdminService/GetVersion";
/// The version of libp2p that workers are built with; a test compares it with the lock file.
const LIBP2P: &str = "0.57.1";
/// Characters of a description or a comment.
const TEXT_MAX: usize = 200;
/// Bytes of a subject or a token's id.
const NAME_BYTES_MAX: usize = 256;
/// How long a key that ended is still listed.
const LISTED: Duration = Duration::from_secs(24 * 3600);

#[tonic::async_trait]
impl v1::admin_service_server::AdminService for Service {
    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let context = self.context(&request);
        respond(self.workers(&context, request.get_ref()).await)
    }

    async fn get_worker(
        &self,
        request: Request<v1::GetWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let context = self.context(&request);
        respond(self.worker(&context, &request.get_ref().worker).await)
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.drain_away(&context, request);
        respond(self.once(&context, "DrainWorker", &request.request_id, request, act).await)
    }

    async fn list_gateways(
        &self,
        request: Request<v1::ListGatewaysRequest>,
    ) -> Result<Response<v1::ListGatewaysResponse>, Status> {
        let context = self.context(&request);
        respond(self.gateways(&context, request.get_ref()).await)
    }

    async fn get_version(&self, _: Request<v1::GetVersionRequest>) -> Result<Response<v1::Version>, Status> {
        Ok(Response::new(v1::Version {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("PLEXUS_COMMIT").unwrap_or_default().into(),
            libp2p: LIBP2P.into(),
            api: vec!["plexus.v1".into()],
        }))
    }

    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        // What is kept for a repeat has no secret.
        let mut secret = String::new();
        let act = async {
            let (made, key) = self.make_key(&context, request).await?;
            secret = made;
            Ok(key)
        };
        let answer = self.once(&context, "CreateApiKey", &request.request_id, request, act).await;
        respond(answer.map(|key| v1::ApiKey { secret, ..key }))
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        let context = self.context(&request);
        respond(self.list_keys(&context, request.get_ref()).await)
    }

    async fn delete_api_key(
        &self,
        request: Request<v1::DeleteApiKeyRequest>,
    ) -> Result<Response<v1::DeleteApiKeyResponse>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.delete_key(&context, &request.api_key);
        respond(self.once(&context, "DeleteApiKey", &request.request_id, request, act).await)
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::Revocation>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.add_revocation(&context, request);
        respond(self.once(&context, "Revoke", &request.request_id, request, act).await)
    }

    async fn list_revocations(
        &self,
        request: Request<v1::ListRevocationsRequest>,
    ) -> Result<Response<v1::ListRevocationsResponse>, Status> {
        let context = self.context(&request);
        respond(self.revocations(&context, request.get_ref()).await)
    }

    async fn delete_revocation(
        &self,
        request: Request<v1::DeleteRevocationRequest>,
    ) -> Result<Response<v1::DeleteRevocationResponse>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.lift(&context, &request.revocation);
        respond(self.once(&context, "DeleteRevocation", &request.request_id, request, act).await)
    }
}

impl Service {
    async fn make_key(
        &self,
        context: &Context,
        request: &v1::CreateApiKeyRequest,
    ) -> Result<(String, v1::ApiKey), Failure> {
        let namespace = self.realm(context, &request.namespace)?;
        check_text("description", &request.description)?;
        let expires = ahead("expiresAt", request.expires_at)?;
        if request.grants.is_empty() {
            return wrong("grants", "1 to 32");
        }
        let written = |g: &v1::Grant| Written { verbs: g.verbs.clone(), resources: g.resources.clone() };
        let grants = Grants::read(&request.grants.iter().map(written).collect::<Vec<_>>());
        let grants = grants.or_else(|wanted| wrong("grants", wanted))?;
        if !context.caller.grants.may_give(&grants) {
            let text = "a key may do no more than the grants of who makes it plainly cover";
            return Err(Box::new(v1::Error::new(Reason::NotAllowed, text)));
        }
        let kept = vault::keys(self.router.bus()).await.map_err(unavailable)?;
        room("api_keys", "gateway.auth.keys_max", kept.len(), self.auth.keys_max)?;
        let key = v1::ApiKey {
            namespace,
            description: request.description.clone(),
            grants: request.grants.clone(),
            created_at: Some(SystemTime::now().into()),
            expires_at: request.expires_at,
            ..v1::ApiKey::default()
        };
        let (secret, record) = key::record(key).or_else(|wanted| wrong("grants", wanted))?;
        let key = record.key.clone().unwrap_or_default();
        let ttl = expires.map(|left| left + LISTED);
        let put = self.router.bus().put(vault::key(&key.api_key), record.to_bytes(), When::Absent, ttl);
        match put.await.map_err(unavailable)? {
            Some(_) => Ok((secret, key)),
            None => Err(Box::new(v1::Error::new(Reason::Internal, "two keys of one id were made"))),
        }
    }

    async fn list_keys(
        &self,
        context: &Context,
        request: &v1::ListApiKeysRequest,
    ) -> Result<v1::ListApiKeysResponse, Failure> {
        let shown = self.shown(context, &request.namespace)?;
        let page = Page::read(request.page_size, &request.page_token, request.namespace.as_bytes())?;
        let bus = self.router.bus();
        let kept = futures::future::try_join(vault::keys(bus), vault::uses(bus));
        let (kept, mut uses) = kept.await.map_err(unavailable)?;
        let keys = kept.into_iter().filter_map(|record| record.key);
        let keys = keys.filter(|key| shown.as_ref().is_none_or(|shown| *shown == key.namespace));
        let keys = keys.map(|key| v1::ApiKey { last_used_at: uses.remove(&key.api_key), ..key });
        let keys = keys.map(|key| (order(key.created_at, &key.api_key), key)).collect();
        let (api_keys, next_page_token) = page.cut(keys);
        Ok(v1::ListApiKeysResponse { api_keys, next_page_token })
    }

    async fn delete_key(&self, context: &Context, id: &str) -> Result<v1::DeleteApiKeyResponse, Failure> {
        let missing = || {
            let error = v1::Error::new(Reason::ApiKeyNotFound, format!("the store has no API key {id:?}"));
            Box::new(error.with("api_key", id))
        };
        if !key::is_id(id) {
            return Err(missing());
        }
        let bus = self.router.bus();
        let value = bus.get(vault::key(id)).await.map_err(unavailable)?.ok_or_else(missing)?;
        let record: plexus_proto::bus::ApiKeyRecord = super::open(plexus_bus::Payload::encoded(value.data))?;
        // That of another namespace is not there.
        let namespace = record.key.map(|key| key.namespace).unwrap_or_default();
        self.realm(context, &namespace).map_err(|_| missing())?;
        let deleted = bus.delete(vault::key(id), When::Always).await.map_err(unavailable)?;
        let _ = bus.delete(vault::last_use(id), When::Always).await; // Forgotten later by itself.
        if deleted { Ok(v1::DeleteApiKeyResponse {}) } else { Err(missing()) }
    }

    async fn add_revocation(
        &self,
        context: &Context,
        request: &v1::RevokeRequest,
    ) -> Result<v1::Revocation, Failure> {
        let namespace = self.realm(context, &request.namespace)?;
        check_text("comment", &request.comment)?;
        for (field, text) in [("tokenId", &request.token_id), ("subject", &request.subject)] {
            if text.len() > NAME_BYTES_MAX {
                return wrong(field, format!("at most {NAME_BYTES_MAX} bytes"));
            }
        }
        let given = ahead("expiresAt", request.expires_at)?;
        if let Some(before) = request.issued_before
            && SystemTime::try_from(before).is_err()
        {
            return wrong("issuedBefore", "a time");
        }
        if request.token_id.is_empty() && request.subject.is_empty() && request.issued_before.is_none() {
            return wrong("tokenId", "at least one of tokenId, subject and issuedBefore");
        }
        let kept = vault::revocations(self.router.bus()).await.map_err(unavailable)?;
        room("revocations", "gateway.auth.revocations_max", kept.len(), self.auth.revocations_max)?;
        let now = SystemTime::now();
        let ttl = given.or_else(|| self.forgotten_after(request));
        let revocation = v1::Revocation {
            revocation: uuid::Uuid::now_v7().simple().to_string(),
            namespace,
            token_id: request.token_id.clone(),
            subject: request.subject.clone(),
            issued_before: request.issued_before,
            comment: request.comment.clone(),
            created_at: Some(now.into()),
            expires_at: ttl.and_then(|ttl| now.checked_add(ttl)).map(Into::into),
        };
        let at = vault::revocation(&revocation.revocation);
        let put = self.router.bus().put(at, revocation.to_bytes(), When::Always, ttl);
        put.await.map_err(unavailable)?;
        Ok(revocation)
    }

    /// How long a revocation is needed: until the last token that it could mean has ended. API keys may never
    /// end, so what names one stays, and so does what may mean all of them.
    fn forgotten_after(&self, request: &v1::RevokeRequest) -> Option<Duration> {
        let of_key = key::is_id(&request.token_id) || request.subject.starts_with(key::SUBJECT);
        let of_all = request.token_id.is_empty() && request.subject.is_empty();
        (!of_key && !of_all).then(|| self.auth.jwt.lifetime_max + 2 * self.auth.jwt.leeway)
    }

    async fn revocations(
        &self,
        context: &Context,
        request: &v1::ListRevocationsRequest,
    ) -> Result<v1::ListRevocationsResponse, Failure> {
        let shown = self.shown(context, &request.namespace)?;
        let page = Page::read(request.page_size, &request.page_token, request.namespace.as_bytes())?;
        let kept = vault::revocations(self.router.bus()).await.map_err(unavailable)?;
        let kept = kept.into_iter().filter(|r| shown.as_ref().is_none_or(|shown| *shown == r.namespace));
        let kept = kept.map(|r| (order(r.created_at, &r.revocation), r)).collect();
        let (revocations, next_page_token) = page.cut(kept);
        Ok(v1::ListRevocationsResponse { revocations, next_page_token })
    }

    async fn lift(&self, context: &Context, id: &str) -> Result<v1::DeleteRevocationResponse, Failure> {
        if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return wrong("revocation", "the id of a revocation");
        }
        let bus = self.router.bus();
        if let Some(value) = bus.get(vault::revocation(id)).await.map_err(unavailable)? {
            let held: v1::Revocation = super::open(plexus_bus::Payload::encoded(value.data))?;
            // That of another namespace is not there, and none is success.
            if self.realm(context, &held.namespace).is_ok() {
                bus.delete(vault::revocation(id), When::Always).await.map_err(unavailable)?;
            }
        }
        Ok(v1::DeleteRevocationResponse {})
    }

    /// The namespace that a request acts on: the caller's own, or any for operators.
    fn realm(&self, context: &Context, asked: &str) -> Result<String, Failure> {
        let own = &*context.caller.namespace;
        if asked.is_empty() || asked == own {
            return Ok(own.into());
        }
        if own != self.auth.operators {
            let text = "only callers of the operators' namespace (gateway.auth.operators) act on others";
            return Err(Box::new(v1::Error::new(Reason::NotAllowed, text)));
        }
        key::check_namespace(asked).or_else(|wanted| wrong("namespace", wanted))?;
        Ok(asked.into())
    }

    /// The namespace whose things a list shows; `None`: of every one.
    fn shown(&self, context: &Context, asked: &str) -> Result<Option<String>, Failure> {
        let all = asked.is_empty() && *context.caller.namespace == *self.auth.operators;
        if all { Ok(None) } else { self.realm(context, asked).map(Some) }
    }
}

fn check_text(field: &str, text: &str) -> Result<(), Failure> {
    if text.chars().count() > TEXT_MAX {
        return wrong(field, format!("at most {TEXT_MAX} characters"));
    }
    Ok(())
}

/// How long it is until a time, which must be to come.
fn ahead(field: &str, at: Option<prost_types::Timestamp>) -> Result<Option<Duration>, Failure> {
    let Some(at) = at else { return Ok(None) };
    let left = SystemTime::try_from(at).ok().and_then(|at| at.duration_since(SystemTime::now()).ok());
    match left.filter(|left| *left >= Duration::from_millis(1)) {
        Some(left) => Ok(Some(left)),
        None => wrong(field, "a time to come"),
    }
}

fn room(quota: &str, setting: &str, held: usize, most: usize) -> Result<(), Failure> {
    if held < most {
        return Ok(());
    }
    let text = format!("there are {most} already, which is the most ({setting})");
    Err(Box::new(v1::Error::new(Reason::QuotaExceeded, text).with("quota", quota)))
}

/// Sorts by age, the newest first.
fn order(at: Option<prost_types::Timestamp>, id: &str) -> String {
    let at = at.unwrap_or_default();
    let age = u64::MAX - u64::try_from(at.seconds).unwrap_or_default();
    format!("{age:020}-{:010}-{id}", u32::MAX - u32::try_from(at.nanos).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_libp2p_is_the_one_that_is_built() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"libp2p\"\nversion = \"{LIBP2P}\"\n")));
    }
}
