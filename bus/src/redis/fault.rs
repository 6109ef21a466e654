//! What the client library and the server say, in the words of [`Error`]. Whether a call may have run
//! is decided here, and only a known refusal says that it did not.

use crate::{Error, Refusal};
use fred::error::{Error as Fault, ErrorKind};

/// Begins what Redis says of a function it does not know.
const NO_FUNCTION: &str = "ERR Function not found";

/// What the client library says of a command that it did not send, being down.
const DOWN: [&str; 2] = ["Client is not initialized.", "Failed to route command."];

/// What it says of a command that it would have to send again.
const AGAIN: &str = "Too many failed write attempts.";

/// What a script says that finds a key of its slot elsewhere. Ours look at every key that may be missing
/// before they write, so it says that nothing was written.
const ELSEWHERE: &str = "access a non local key";

/// Refusals by the first word of an error; each of them is given before anything ran.
const REFUSALS: [(&str, Refusal); 15] = [
    ("READONLY", Refusal::ReadOnly),
    ("LOADING", Refusal::Loading),
    ("MASTERDOWN", Refusal::Loading),
    ("BUSY", Refusal::Busy),
    ("OOM", Refusal::OutOfMemory),
    ("NOAUTH", Refusal::NoAuth),
    ("WRONGPASS", Refusal::NoAuth),
    ("NOPERM", Refusal::NoPermission),
    ("DENIED", Refusal::NoPermission),
    ("MISCONF", Refusal::Misconfigured),
    ("NOREPLICAS", Refusal::NoReplicas),
    ("TRYAGAIN", Refusal::Moving),
    ("ASK", Refusal::Moving),
    ("MOVED", Refusal::Moved),
    ("CLUSTERDOWN", Refusal::ClusterDown),
];

/// Tells whether the server lacks the function: it did not run.
pub(super) fn lacks_function(fault: &Fault) -> bool {
    fault.details().starts_with(NO_FUNCTION)
}

/// Reads a fault of a command that may have been written.
pub(super) fn read(fault: &Fault) -> Error {
    match fault.kind() {
        ErrorKind::Timeout => Error::Timeout,
        ErrorKind::Backpressure => Error::Overloaded,
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Routing => Error::Unreachable { sent: true },
        _ => said(fault.details()),
    }
}

/// Reads a fault of connecting; nothing was sent.
pub(super) fn connecting(fault: &Fault) -> Error {
    match read(fault) {
        Error::Refused(refusal) => Error::Refused(refusal),
        Error::Timeout => Error::Timeout,
        _ if *fault.kind() == ErrorKind::Auth => Error::Refused(Refusal::NoAuth),
        _ if distrusts(fault) => {
            let details = fault.details();
            let why = details.split_once("error: ").map_or(details, |(_, why)| why.trim_end_matches(" }"));
            Error::Tls(why.chars().take(200).collect())
        }
        _ => Error::Unreachable { sent: false },
    }
}

/// Tells whether TLS failed; the client library calls that an I/O error and gives it in words for developers.
fn distrusts(fault: &Fault) -> bool {
    let tls = ["InvalidCertificate(", "AlertReceived(", "InvalidMessage("];
    *fault.kind() == ErrorKind::Tls || tls.iter().any(|sign| fault.details().contains(sign))
}

fn said(details: &str) -> Error {
    let word = details.split_whitespace().next().unwrap_or_default();
    if let Some((_, refusal)) = REFUSALS.iter().find(|(prefix, _)| *prefix == word) {
        return Error::Refused(*refusal);
    }
    if details.contains("max number of clients") {
        return Error::Refused(Refusal::MaxClients);
    }
    if details.starts_with(NO_FUNCTION) {
        return Error::Refused(Refusal::NoFunctions);
    }
    if DOWN.contains(&details) || details == AGAIN {
        return Error::Unreachable { sent: details == AGAIN };
    }
    if details.contains(ELSEWHERE) {
        return Error::Refused(Refusal::Moving);
    }
    // Anything else may come from the middle of a script.
    Error::Unreadable(details.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ran;

    #[test]
    fn only_a_known_refusal_says_that_nothing_ran() {
        let said = |text: &'static str| read(&Fault::new(ErrorKind::Unknown, text));
        assert_eq!(said("OOM command not allowed"), Error::Refused(Refusal::OutOfMemory));
        assert_eq!(said("READONLY You can't write"), Error::Refused(Refusal::ReadOnly));
        assert_eq!(said("ERR max number of clients reached"), Error::Refused(Refusal::MaxClients));
        assert_eq!(said("Failed to route command.").outcome(), Ran::NotRun);
        assert_eq!(said("Too many failed write attempts.").outcome(), Ran::Unknown);
        assert_eq!(said("ERR something in a script").outcome(), Ran::Unknown);
        assert_eq!(said("ERR max number of clients + cluster connections reached").outcome(), Ran::NotRun);
        let script = "ERR Script attempted to access a non local key in a cluster node script: plx1_take";
        assert_eq!(said(script), Error::Refused(Refusal::Moving));
        assert_eq!(said("MOVED 7 127.0.0.1:7001"), Error::Refused(Refusal::Moved));
        assert_eq!(said("CLUSTERDOWN Hash slot not served").outcome(), Ran::Unknown, "told to others too");
        assert_eq!(read(&Fault::new(ErrorKind::Timeout, "")).outcome(), Ran::Unknown);
        assert_eq!(read(&Fault::new(ErrorKind::Backpressure, "")).outcome(), Ran::NotRun);
    }
}
