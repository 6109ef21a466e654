//! Handshakes that are never finished.

use super::{Attack, Reads, SLOWLY};

pub(super) const ATTACKS: [Attack; 1] = [Attack {
    name: "half-handshakes",
    what: "TLS: a third silent, a third with half a ClientHello, a third silent after a whole one",
    connections: 1_000,
    every: SLOWLY,
    reads: Reads::All,
    tls: true,
    ends: true,
    script: |n, step, _| match (n % 3, step) {
        (1, 0) => hello()[..40].to_vec(),
        (2, 0) => hello(),
        _ => Vec::new(),
    },
}];

/// A ClientHello of TLS 1.3, with the least that is answered.
fn hello() -> Vec<u8> {
    let extension = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], &sized(data)].concat();
    let extensions = [
        extension(43, &[2, 3, 4]),                                        // versions: 1.3
        extension(10, &[0, 2, 0, 29]),                                    // groups: X25519
        extension(13, &[0, 6, 4, 3, 8, 7, 8, 4]),                         // signatures: ECDSA, EdDSA, RSA-PSS
        extension(51, &sized(&[&[0, 29, 0, 32][..], &[9; 32]].concat())), // a share of the key
    ]
    .concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0], &sized(&extensions)].concat();
    let [_, a, b, c] = (body.len() as u32).to_be_bytes();
    let handshake = [&[1, a, b, c][..], &body].concat();
    [&[0x16, 3, 1][..], &sized(&handshake)].concat()
}

fn sized(data: &[u8]) -> Vec<u8> {
    [&(data.len() as u16).to_be_bytes()[..], data].concat()
}
