//! Pages of lists: how large, where they go on. A token holds the last name of the page before and a
//! mark of the other fields, so that a token of another list is told. Pure.

use crate::Refusal;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use plexus_proto::{reason::Reason, v1};
use sha2::{Digest, Sha256};

/// Entries of a page by default.
const DEFAULT: usize = 50;
/// Entries of a page at most.
const MOST: usize = 1000;
/// Bytes of the mark.
const MARK: usize = 8;

/// One page of a list that is ordered by a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Entries at most.
    pub(crate) size: usize,
    /// Only names after this.
    pub(crate) after: Option<Vec<u8>>,
    mark: [u8; MARK],
}

impl Page {
    /// Reads `page_size` and `page_token`. `fields` are the other fields of the request, which the
    /// token must agree with.
    pub(crate) fn read(size: i32, token: &str, fields: &[&[u8]]) -> Result<Self, Refusal> {
        let size = match usize::try_from(size) {
            Ok(0) => DEFAULT,
            Ok(size) => size.min(MOST),
            Err(_) => return Err(Box::new(v1::Error::field("pageSize", "0 to 1000; 0 means 50"))),
        };
        let mark = mark(fields);
        let bad = || {
            let text = "the page token is not ours or belongs to other fields";
            Box::new(v1::Error::new(Reason::BadPageToken, text).violation("pageToken", text))
        };
        let after = match token {
            "" => None,
            token => {
                let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
                let after = bytes.strip_prefix(&mark).filter(|after| !after.is_empty()).ok_or_else(bad)?;
                Some(after.to_vec())
            }
        };
        Ok(Self { size, after, mark })
    }

    /// Cuts an ordered list to the page; answers it with the token of the next one.
    pub(crate) fn cut<T>(
        &self,
        all: impl IntoIterator<Item = T>,
        name: impl Fn(&T) -> &[u8],
    ) -> (Vec<T>, String) {
        let after = self.after.as_deref();
        let mut rest = all.into_iter().skip_while(|item| after.is_some_and(|after| name(item) <= after));
        let page: Vec<T> = rest.by_ref().take(self.size).collect();
        let token = match page.last() {
            Some(last) if rest.next().is_some() => {
                BASE64_URL_SAFE_NO_PAD.encode([&self.mark[..], name(last)].concat())
            }
            _ => String::new(),
        };
        (page, token)
    }
}

fn mark(fields: &[&[u8]]) -> [u8; MARK] {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    let mut mark = [0; MARK];
    mark.copy_from_slice(&hash.finalize()[..MARK]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<Vec<u8>> {
        (0..5u8).map(|n| vec![b'a' + n]).collect()
    }

    #[test]
    fn pages_hold_every_entry_once() {
        let mut token = String::new();
        let mut seen = Vec::new();
        loop {
            let page = Page::read(2, &token, &[b"x"]).unwrap();
            let (mut entries, next) = page.cut(names(), |name| name);
            seen.append(&mut entries);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, names());
    }

    #[test]
    fn a_token_of_other_fields_is_refused() {
        let (_, token) = Page::read(1, "", &[b"x"]).unwrap().cut(names(), |name| name);
        assert!(Page::read(1, &token, &[b"y"]).unwrap_err().is(Reason::BadPageToken));
        assert!(Page::read(1, "%", &[b"x"]).unwrap_err().is(Reason::BadPageToken));
        assert!(Page::read(-1, "", &[]).unwrap_err().is(Reason::FieldInvalid));
        assert_eq!(Page::read(9999, "", &[]).unwrap().size, MOST);
    }
}
