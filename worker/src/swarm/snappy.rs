//! The reading half of snappy's block format, which message ids of eth2 need. Pure.
//! <https://github.com/google/snappy/blob/main/format_description.txt>

/// Decompresses a block; none if it is none or would grow over `bytes_max`.
pub(super) fn decompress(block: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let (len, mut rest) = varint(block)?;
    if len > bytes_max {
        return None;
    }
    let mut out = Vec::new();
    while let Some((tag, tail)) = rest.split_first() {
        rest = match tag & 3 {
            0 => literal(*tag, tail, &mut out)?,
            1 => {
                let (low, tail) = number(tail, 1)?;
                copy(&mut out, usize::from(tag >> 5) << 8 | low, usize::from(tag >> 2 & 7) + 4, len)?;
                tail
            }
            kind => {
                let (offset, tail) = number(tail, if kind == 2 { 2 } else { 4 })?;
                copy(&mut out, offset, usize::from(tag >> 2) + 1, len)?;
                tail
            }
        };
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

fn varint(mut bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        bytes = rest;
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).ok()?;
            return Some((usize::try_from(value).ok()?, bytes));
        }
    }
    None
}

/// Reads a little-endian number of up to four bytes.
fn number(bytes: &[u8], len: usize) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_at_checked(len)?;
    Some((number.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)), rest))
}

fn literal<'a>(tag: u8, tail: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let short = usize::from(tag >> 2);
    let (len, tail) = if short < 60 { (short, tail) } else { number(tail, short - 59)? };
    let (bytes, rest) = tail.split_at_checked(len.checked_add(1)?)?;
    out.extend_from_slice(bytes);
    Some(rest)
}

/// Repeats what was written `offset` bytes ago; it may overlap what it writes.
fn copy(out: &mut Vec<u8>, offset: usize, len: usize, bytes_max: usize) -> Option<()> {
    let from = out.len().checked_sub(offset).filter(|_| offset > 0)?;
    if out.len() + len > bytes_max {
        return None;
    }
    for at in from..from + len {
        out.push(*out.get(at)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_are_read_as_the_format_says() {
        assert_eq!(decompress(&[0], 10), Some(vec![]));
        assert_eq!(decompress(&[3, 2 << 2, 1, 2, 3], 10), Some(vec![1, 2, 3]));
        // "ab", then 8 bytes from 2 ago (one-byte offset), then 3 from 4 ago (two-byte offset).
        let block = [13, 1 << 2, b'a', b'b', (4 << 2) | 1, 2, (2 << 2) | 2, 4, 0];
        assert_eq!(
            decompress(&block, 13).unwrap(),
            b"abababababaab"[..10].iter().chain(b"aba").copied().collect::<Vec<_>>()
        );
        // A literal of 61 bytes has its length apart.
        let long = [&[61, 60 << 2, 60][..], &[9; 61]].concat();
        assert_eq!(decompress(&long, 61), Some(vec![9; 61]));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let bad: [&[u8]; 8] = [
            &[],
            &[0x80],
            &[1],
            &[1, 0],
            &[2, 0, 1],
            &[5, (1 << 2) | 1, 1],
            &[5, 0, 1, 1, 0],
            &[0xff, 0xff, 0xff, 0xff, 0x7f, 0],
        ];
        for block in bad {
            assert_eq!(decompress(block, 1 << 20), None, "{block:?}");
        }
        assert_eq!(decompress(&[3, 2 << 2, 1, 2, 3], 2), None);
    }

    proptest! {
        #[test]
        fn no_input_panics_or_grows_past_the_bound(block in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(out) = decompress(&block, 1000) {
                prop_assert!(out.len() <= 1000);
            }
        }
    }
}
