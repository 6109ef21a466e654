//! The services behind the edge, by their names. Every call of every dialect comes by here, so it is found
//! by a comparison or two and costs what the generated server costs: no paths are matched, no bodies wrapped
//! twice.

use axum::body::Body;
use futures::future::BoxFuture;
use http::{Request, Response};
use std::{convert::Infallible, fmt};
use tonic::server::NamedService;
use tower::Service;

type Handler = Box<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Generated servers of gRPC services, which are ready at any time.
#[derive(Default)]
pub struct Services(Vec<(&'static str, Handler)>);

impl Services {
    /// Adds a service.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<tonic::body::Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let handler = move |request| -> BoxFuture<'static, Response<Body>> {
            let answer = service.clone().call(request);
            Box::pin(async move {
                match answer.await {
                    Ok(response) => response.map(Body::new),
                    Err(never) => match never {},
                }
            })
        };
        self.0.push((S::NAME, Box::new(handler)));
        self
    }

    /// Calls the service of this name; `None`: there is none.
    pub(crate) fn call(
        &self,
        name: &str,
        request: Request<Body>,
    ) -> Option<BoxFuture<'static, Response<Body>>> {
        self.0.iter().find(|(service, _)| *service == name).map(|(_, handler)| handler(request))
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
