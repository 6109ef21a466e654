//! Pages of lists: how large, where they go on. A token holds where the page before ended and a mark of
//! the other fields, so that a token of another list is told. Pure.

use crate::router::Failure;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use plexus_proto::{reason::Reason, v1};
use sha2::{Digest, Sha256};

const DEFAULT: usize = 50;
const MOST: usize = 1000;
const MARK: usize = 8;

/// One page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Entries at most.
    pub(crate) size: usize,
    /// Where the page before ended.
    pub(crate) after: Option<String>,
    mark: [u8; MARK],
}

/// Checks `page_size` alone, for lists that the owner cuts.
pub(crate) fn size(size: i32) -> Result<usize, Failure> {
    match usize::try_from(size) {
        Ok(0) => Ok(DEFAULT),
        Ok(size) => Ok(size.min(MOST)),
        Err(_) => super::wrong("pageSize", "0 to 1000; 0 means 50"),
    }
}

impl Page {
    /// Reads `page_size` and `page_token`; `fields` are the others, which the token must agree with.
    pub(crate) fn read(page_size: i32, token: &str, fields: &[u8]) -> Result<Self, Failure> {
        let mark = <[u8; MARK]>::try_from(&Sha256::digest(fields)[..MARK]).expect("a digest is longer");
        let bad = || {
            let text = "the page token is not ours or belongs to other fields";
            Box::new(v1::Error::new(Reason::BadPageToken, text).violation("pageToken", text))
        };
        let after = match token {
            "" => None,
            token => {
                let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
                let after = bytes.strip_prefix(&mark).filter(|after| !after.is_empty()).ok_or_else(bad)?;
                Some(String::from_utf8(after.to_vec()).map_err(|_| bad())?)
            }
        };
        Ok(Self { size: size(page_size)?, after, mark })
    }

    /// Cuts the page out of a list, and says where the next one goes on.
    pub(crate) fn cut<T>(&self, mut list: Vec<(String, T)>) -> (Vec<T>, String) {
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list.retain(|(at, _)| self.after.as_ref().is_none_or(|after| at > after));
        let more = list.len() > self.size;
        list.truncate(self.size);
        let next = list.last().filter(|_| more).map(|(at, _)| self.token(at)).unwrap_or_default();
        (list.into_iter().map(|(_, entry)| entry).collect(), next)
    }

    /// The token of the page after one that ended here.
    pub(crate) fn token(&self, end: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode([&self.mark[..], end.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_on_where_its_page_ended_and_only_in_its_list() {
        let page = Page::read(2, "", b"x").unwrap();
        let token = page.token("b");
        assert_eq!(Page::read(0, &token, b"x").unwrap().after.as_deref(), Some("b"));
        for (token, fields) in
            [(&token[..], &b"y"[..]), ("!", b"x"), ("AAAA", b"x"), (&page.token("")[..], b"x")]
        {
            assert!(Page::read(2, token, fields).unwrap_err().is(Reason::BadPageToken), "{token}");
        }
        assert!(Page::read(-1, "", b"").unwrap_err().is(Reason::FieldInvalid));
        assert_eq!(Page::read(5000, "", b"").unwrap().size, 1000);
    }
}
