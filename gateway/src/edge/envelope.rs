//! Requests in envelopes, as gRPC, gRPC-Web and streams of Connect send them: each is measured as it comes,
//! before tonic or the runtime of Connect reads it. Neither would say what is wrong in words of the
//! contract: OUT_OF_RANGE to a message that is too large, INTERNAL to one that is cut.

use super::{body, desc::Method, guard};
use crate::error;
use axum::body::Body;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName};
use http_body::Frame;
use pin_project_lite::pin_project;
use plexus_proto::v1;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tonic::{Code, Status};

/// Bytes before each message.
pub(crate) const PREFIX: usize = 5;

/// How the messages of a request may be packed, as the header of its dialect says.
#[derive(Clone, Debug)]
pub(crate) struct Packing {
    header: HeaderName,
    gzip: bool,
}

impl Packing {
    /// Reads the header; an error is of what cannot be read here.
    pub(crate) fn read(headers: &HeaderMap, header: HeaderName) -> Result<Self, Box<v1::Error>> {
        let given = body::single(headers, &header)?.unwrap_or_default();
        match &*given {
            "" | "identity" => Ok(Self { header, gzip: false }),
            "gzip" => Ok(Self { header, gzip: true }),
            other => Err(body::unsupported(&header, other, body::ENCODINGS)),
        }
    }

    /// Tells whether messages may be packed.
    pub(crate) fn is_gzip(&self) -> bool {
        self.gzip
    }

    /// Unpacks what the header says is packed, never to more than `limit` bytes. Nothing is packed in nothing.
    pub(crate) async fn unpack(&self, message: Bytes, limit: usize) -> Result<Bytes, Box<v1::Error>> {
        if message.is_empty() || !self.gzip {
            return Ok(message);
        }
        body::unpack(&message, limit, &self.header).await
    }
}

/// Takes the only message out of its envelope; [`Measured`] has seen that there is one, and whole.
pub(crate) async fn open(mut body: Bytes, packing: &Packing, limit: usize) -> Result<Bytes, Box<v1::Error>> {
    let packed = body.first().is_some_and(|flags| *flags == 1);
    body.advance(PREFIX.min(body.len()));
    if packed { packing.unpack(body, limit).await } else { Ok(body) }
}

pin_project! {
    /// A request whose envelopes are counted and measured.
    pub(crate) struct Measured {
        #[pin]
        inner: Body,
        ruler: Ruler,
        failed: bool,
    }
}

impl Measured {
    /// Holds a request to messages of `limit` bytes, and to exactly one if the method takes one.
    pub(crate) fn new(inner: Body, limit: usize, method: &Method, packing: Packing) -> Self {
        Self::of(inner, Ruler::new(limit, method.kind.takes_one(), method.told, packing))
    }

    fn of(inner: Body, ruler: Ruler) -> Self {
        Self { inner, ruler, failed: false }
    }
}

/// Reads the five bytes before each message, however they are cut.
struct Ruler {
    limit: usize,
    single: bool,
    told: bool,
    packing: Packing,
    seen: u32,
    prefix: [u8; PREFIX],
    have: usize,
    skip: usize,
}

impl Ruler {
    fn new(limit: usize, single: bool, told: bool, packing: Packing) -> Self {
        Self { limit, single, told, packing, seen: 0, prefix: [0; PREFIX], have: 0, skip: 0 }
    }

    fn measure(&mut self, mut data: Bytes) -> Result<(), Status> {
        while !data.is_empty() {
            let skip = data.len().min(self.skip);
            data.advance(skip);
            self.skip -= skip;
            let take = data.len().min(PREFIX - self.have);
            self.prefix[self.have..self.have + take].copy_from_slice(&data[..take]);
            data.advance(take);
            self.have += take;
            if self.have == PREFIX {
                self.message()?;
            }
        }
        Ok(())
    }

    fn message(&mut self) -> Result<(), Status> {
        let [flags, len @ ..] = self.prefix;
        self.have = 0;
        self.seen += 1;
        self.skip = u32::from_be_bytes(len) as usize;
        match flags {
            _ if self.skip > self.limit => Err(self.refusal(&guard::too_large(self.limit))),
            _ if self.single && self.seen > 1 => Err(self.miscounted("more")),
            0 => Ok(()),
            1 if self.packing.gzip => Ok(()),
            1 => Err(error::coded(&unnamed(&self.packing.header), Code::Internal, self.told)),
            flags => {
                Err(self
                    .refusal(&v1::Error::field("body", format!("flags of an envelope: {flags}, not 0 or 1"))))
            }
        }
    }

    /// What is wrong with a request that ends here.
    fn end(&self) -> Result<(), Status> {
        let missing = if self.have > 0 { PREFIX - self.have } else { self.skip };
        match missing {
            0 if self.single && self.seen == 0 => Err(self.miscounted("none")),
            0 => Ok(()),
            missing => Err(self.refusal(&v1::Error::field(
                "body",
                format!("an envelope is cut: {missing} bytes are missing"),
            ))),
        }
    }

    fn refusal(&self, error: &v1::Error) -> Status {
        error::refusal(error, self.told)
    }

    /// The specifications have a code of their own for it.
    fn miscounted(&self, got: &str) -> Status {
        let text = format!("the call takes exactly one message: got {got}");
        error::coded(&v1::Error::field("body", text), Code::Unimplemented, self.told)
    }
}

/// Says that nothing names how a message is packed.
fn unnamed(header: &HeaderName) -> v1::Error {
    v1::Error::field(header.as_str(), "a message is packed, and nothing says how")
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.project();
        if *me.failed {
            return Poll::Ready(None);
        }
        let frame = ready!(me.inner.poll_frame(context));
        let result = match frame {
            None => match me.ruler.end() {
                Ok(()) => return Poll::Ready(None),
                Err(status) => Err(status),
            },
            Some(Err(e)) => Err(Status::from_error(e.into_inner())),
            Some(Ok(frame)) => {
                let data = frame.data_ref().cloned().unwrap_or_default();
                me.ruler.measure(data).map(|()| frame)
            }
        };
        *me.failed = result.is_err();
        Poll::Ready(Some(result))
    }

    fn is_end_stream(&self) -> bool {
        self.failed || (self.inner.is_end_stream() && self.ruler.end().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::from_status;
    use futures::FutureExt;
    use http::{HeaderValue, header};
    use http_body_util::{BodyExt, StreamBody};
    use plexus_proto::reason::Reason;
    use proptest::prelude::*;

    fn packing(name: &'static str) -> Packing {
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(name))]);
        Packing::read(&headers, header::CONTENT_ENCODING).unwrap()
    }

    /// Sends the bytes in pieces of `step` and says how it ended.
    fn measure(bytes: &[u8], step: usize, ruler: Ruler) -> Result<usize, Status> {
        let pieces: Vec<_> = bytes
            .chunks(step.max(1))
            .map(|c| Ok::<_, axum::Error>(Frame::data(Bytes::copy_from_slice(c))))
            .collect();
        let body = Body::new(StreamBody::new(futures::stream::iter(pieces)));
        Measured::of(body, ruler).collect().now_or_never().unwrap().map(|all| all.to_bytes().len())
    }

    fn ruler(single: bool) -> Ruler {
        Ruler::new(20, single, true, packing("identity"))
    }

    fn message(len: usize) -> Vec<u8> {
        [&[0][..], &(len as u32).to_be_bytes(), &vec![7; len]].concat()
    }

    #[test]
    fn what_is_wrong_with_an_envelope_is_told_by_code_and_reason_and_field() {
        let told = |bytes: &[u8], packs: &'static str| {
            let status = measure(bytes, 1, Ruler::new(20, true, true, packing(packs))).unwrap_err();
            let error = from_status(&status);
            let field = error.violations.first().map(|v| v.field.clone()).unwrap_or_default();
            (status.code(), error.reason, field)
        };
        for (bytes, packs, code, reason, field) in [
            (&[][..], "gzip", Code::Unimplemented, "FIELD_INVALID", "body"),
            (&[message(1), message(1)].concat(), "gzip", Code::Unimplemented, "FIELD_INVALID", "body"),
            (&message(3)[..7], "gzip", Code::InvalidArgument, "FIELD_INVALID", "body"),
            (&[0, 0], "gzip", Code::InvalidArgument, "FIELD_INVALID", "body"),
            (&[2, 0, 0, 0, 0], "gzip", Code::InvalidArgument, "FIELD_INVALID", "body"),
            (&[1, 0, 0, 0, 0], "identity", Code::Internal, "FIELD_INVALID", "content-encoding"),
            (&[1, 0, 0, 0, 21], "gzip", Code::ResourceExhausted, "MESSAGE_TOO_LARGE", ""),
        ] {
            assert_eq!(told(bytes, packs), (code, reason.to_owned(), field.to_owned()), "{bytes:?}");
        }
        assert_eq!(measure(&[1, 0, 0, 0, 0], 5, Ruler::new(20, true, true, packing("gzip"))).unwrap(), 5);
    }

    #[test]
    fn what_is_packed_is_unpacked_to_the_limit_and_nothing_is_packed_in_nothing() {
        let gzip = packing("gzip");
        let open = |body: Bytes, packing, most| futures::executor::block_on(open(body, packing, most));
        assert_eq!(open(Bytes::from_static(&[1, 0, 0, 0, 0]), &gzip, 20).unwrap(), "");
        assert_eq!(open(Bytes::from(message(3)), &gzip, 20).unwrap(), [7; 3][..]);
        let broken = open(Bytes::from_static(&[1, 0, 0, 0, 1, 9]), &gzip, 20).unwrap_err();
        assert_eq!(broken.violations[0].field, "content-encoding");
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("br"))]);
        let refused = Packing::read(&headers, header::CONTENT_ENCODING).unwrap_err();
        assert!(refused.is(Reason::UnsupportedMediaType));
    }

    proptest! {
        #[test]
        fn the_size_of_a_message_is_seen_however_it_is_cut(len in 0usize..40, step in 1usize..50) {
            let fits = measure(&message(len), step, ruler(true)).map_err(|s| s.code());
            prop_assert_eq!(fits, if len > 20 { Err(Code::ResourceExhausted) } else { Ok(len + 5) });
        }

        #[test]
        fn a_call_of_one_message_takes_exactly_one(count in 0usize..4, step in 1usize..50) {
            let bytes = message(3).repeat(count);
            prop_assert_eq!(measure(&bytes, step, ruler(true)).is_ok(), count == 1);
            prop_assert_eq!(measure(&bytes, step, ruler(false)).unwrap(), 8 * count);
        }

        #[test]
        fn a_request_that_ends_within_an_envelope_is_refused(cut in 1usize..8, step in 1usize..50, before in 0usize..3) {
            let bytes = [message(3).repeat(before), message(3)[..cut].to_vec()].concat();
            prop_assert_eq!(measure(&bytes, step, ruler(false)).map_err(|s| s.code()), Err(Code::InvalidArgument));
        }
    }
}
