//! Frames of HTTP/2 and what stands in them, written by hand: a library would not write what is wrong.

/// What an HTTP/2 connection begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// Bytes before a payload.
const HEAD: usize = 9;

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut out = vec![a, b, c, kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// The beginning of a connection; `window` is what each stream may be sent at first.
pub(super) fn opening(window: u32) -> Vec<u8> {
    let mut setting = vec![0, 4];
    setting.extend(window.to_be_bytes());
    [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()
}

/// The id of a client's nth stream.
pub(super) fn stream(n: u64) -> u32 {
    (n as u32) * 2 + 1
}

/// The compressed head of a request.
pub(super) fn head(post: bool, path: &str, host: &str) -> Vec<u8> {
    let mut out = vec![if post { 0x83 } else { 0x82 }, 0x86];
    out.push(0x04);
    text(&mut out, path.as_bytes());
    out.push(0x01);
    text(&mut out, host.as_bytes());
    out
}

/// A header that is not kept.
pub(super) fn header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(0x00);
    text(out, name.as_bytes());
    text(out, value);
}

/// A header that the other side is to keep.
pub(super) fn kept(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(0x40);
    text(out, name.as_bytes());
    text(out, value);
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 127 {
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend(text);
}

/// Reads what the gateway sends, and answers its pings and settings.
#[derive(Default)]
pub(super) struct Answers(Vec<u8>);

impl Answers {
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.extend(bytes);
        let mut out = Vec::new();
        while self.0.len() >= HEAD {
            let len = u32::from_be_bytes([0, self.0[0], self.0[1], self.0[2]]) as usize;
            if self.0.len() < HEAD + len {
                break;
            }
            let whole: Vec<u8> = self.0.drain(..HEAD + len).collect();
            match (whole[3], whole[4] & ACK) {
                (PING, 0) => out.extend(frame(PING, ACK, 0, &whole[HEAD..])),
                (SETTINGS, 0) => out.extend(frame(SETTINGS, ACK, 0, &[])),
                _ => {}
            }
        }
        out
    }
}
