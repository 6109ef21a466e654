//! What the client library and the server say, in the words of [`Error`]. Whether a call may have run
//! is decided here, and only a known refusal says that it did not.

use crate::{Error, Refusal};
use fred::error::{Error as Fault, ErrorKind};

/// Begins what Redis says of a function it does not know.
const NO_FUNCTION: &str = "ERR Function not found";

/// What a link says of a command that it did not send, being down.
pub(super) const DOWN: &str = "Client is not initialized.";

/// Refusals by the first word of an error; each of them is given before anything ran.
const REFUSALS: [(&str, Refusal); 15] = [
    ("READONLY", Refusal::ReadOnly),
    ("LOADING", Refusal::Loading),
    ("MASTERDOWN", Refusal::Loading),
    ("BUSY", Refusal::TryAgain),
    ("OOM", Refusal::OutOfMemory),
    ("NOAUTH", Refusal::NoAuth),
    ("WRONGPASS", Refusal::NoAuth),
    ("NOPERM", Refusal::NoPermission),
    ("MISCONF", Refusal::Misconfigured),
    ("NOREPLICAS", Refusal::NoReplicas),
    ("TRYAGAIN", Refusal::TryAgain),
    ("CLUSTERDOWN", Refusal::TryAgain),
    ("MOVED", Refusal::TryAgain),
    ("ASK", Refusal::TryAgain),
    ("DENIED", Refusal::NoPermission),
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
        _ => Error::Unreachable { sent: false },
    }
}

fn said(details: &str) -> Error {
    let word = details.split_whitespace().next().unwrap_or_default();
    if let Some((_, refusal)) = REFUSALS.iter().find(|(prefix, _)| *prefix == word) {
        return Error::Refused(*refusal);
    }
    if details.contains("max number of clients") {
        return Error::Refused(Refusal::MaxClients);
    }
    if details == DOWN {
        return Error::Unreachable { sent: false };
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
        assert_eq!(said("ERR something in a script").outcome(), Ran::Unknown);
        assert_eq!(read(&Fault::new(ErrorKind::Timeout, "")).outcome(), Ran::Unknown);
        assert_eq!(read(&Fault::new(ErrorKind::Backpressure, "")).outcome(), Ran::NotRun);
    }
}
