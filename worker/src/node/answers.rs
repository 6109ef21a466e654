//! The window of answers (P19): a call that comes twice is answered once more, not done once more.
//! By the call's id for 5 min, by `request_id` for 10. Only calls that change something are kept, so
//! answers are small; a read is simply read again. Pure: time is an argument.

use crate::{Refusal, clock::Moment, refuse};
use plexus_bus::{CallId, Payload};
use plexus_proto::reason::Reason;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// How long an answer is kept for the same call.
const BY_CALL: Duration = Duration::from_secs(300);
/// How long it is kept for the same `request_id`.
const BY_KEY: Duration = Duration::from_secs(600);

/// What an answer is.
pub(crate) type Answer = Result<Payload, Refusal>;

/// SHA-256 of the request, to tell a repeat from a mistake.
pub(crate) type Content = [u8; 32];

/// What is known of a call that comes in.
#[derive(Debug)]
pub(crate) enum Known {
    /// Nothing: it is new, and counts as under way from now on.
    New,
    /// It is under way; its answer will serve this one as well.
    Pending,
    /// It was answered.
    Answered(Answer),
    /// The `request_id` was used with other content.
    Reused(Refusal),
}

/// The window.
pub(crate) struct Answers {
    /// Answers by call.
    calls: HashMap<CallId, Answer>,
    /// Calls and answers by method and `request_id`.
    keys: HashMap<Arc<str>, Slot>,
    /// The key of a call under way.
    pending: HashMap<CallId, Arc<str>>,
    /// What to forget, oldest first.
    ends: VecDeque<(Moment, End)>,
    /// Answers at most; the oldest go.
    most: usize,
}

struct Slot {
    content: Content,
    /// `None`: under way, by this call; others wait.
    answer: Option<Answer>,
    waiting: Vec<CallId>,
}

enum End {
    Call(CallId),
    Key(Arc<str>),
}

impl Answers {
    /// Makes an empty window of `most` answers.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            calls: HashMap::new(),
            keys: HashMap::new(),
            pending: HashMap::new(),
            ends: VecDeque::new(),
            most: most.max(1),
        }
    }

    /// Looks a call up by its id.
    pub(crate) fn call(&self, id: CallId) -> Option<Answer> {
        self.calls.get(&id).cloned()
    }

    /// Looks a call up by `request_id`, and takes it as under way where it is new.
    pub(crate) fn keyed(&mut self, id: CallId, key: &str, content: Content) -> Known {
        let Some(slot) = self.keys.get_mut(key) else {
            let key: Arc<str> = key.into();
            self.keys.insert(key.clone(), Slot { content, answer: None, waiting: Vec::new() });
            self.pending.insert(id, key);
            return Known::New;
        };
        if slot.content != content {
            let message = "the request id was used with other content";
            return Known::Reused(refuse(Reason::RequestIdReused, message));
        }
        match &slot.answer {
            Some(answer) => Known::Answered(answer.clone()),
            None => {
                slot.waiting.push(id);
                Known::Pending
            }
        }
    }

    /// Keeps the answer of a call; answers the calls that waited for it. A failure is not kept by
    /// key: the same `request_id` may try again.
    pub(crate) fn keep(&mut self, id: CallId, answer: &Answer, now: Moment) -> Vec<CallId> {
        if self.calls.insert(id, answer.clone()).is_none() {
            self.ends.push_back((now.after(BY_CALL), End::Call(id)));
        }
        let waiting = self.pending.remove(&id).map(|key| self.settle(key, answer, now)).unwrap_or_default();
        while self.ends.len() > self.most {
            self.forget_oldest();
        }
        waiting
    }

    fn settle(&mut self, key: Arc<str>, answer: &Answer, now: Moment) -> Vec<CallId> {
        let Some(slot) = self.keys.get_mut(&key) else { return Vec::new() };
        let waiting = std::mem::take(&mut slot.waiting);
        if answer.is_ok() {
            slot.answer = Some(answer.clone());
            self.ends.push_back((now.after(BY_KEY), End::Key(key)));
        } else {
            self.keys.remove(&key);
        }
        waiting
    }

    /// Gives up a call that will never be answered.
    pub(crate) fn abandon(&mut self, id: CallId) {
        if let Some(key) = self.pending.remove(&id) {
            self.keys.remove(&key);
        }
    }

    /// Forgets what is past its time.
    pub(crate) fn expire(&mut self, now: Moment) {
        // The two spans lie in one queue, so an entry may stay for the longer one; that is harmless.
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        match self.ends.pop_front() {
            Some((_, End::Call(id))) => drop(self.calls.remove(&id)),
            Some((_, End::Key(key))) => drop(self.keys.remove(&key)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> CallId {
        CallId::from_u128(n)
    }

    fn at(seconds: u64) -> Moment {
        Moment::at(Duration::from_secs(seconds))
    }

    fn done(text: &'static str) -> Answer {
        Ok(Payload::encoded(text.as_bytes()))
    }

    fn text(answer: Answer) -> String {
        String::from_utf8(answer.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_repeated_call_gets_its_first_answer_for_five_minutes() {
        let mut answers = Answers::new(10);
        assert!(answers.call(id(1)).is_none());
        answers.keep(id(1), &done("once"), at(0));
        answers.expire(at(299));
        assert_eq!(text(answers.call(id(1)).unwrap()), "once");
        answers.expire(at(300));
        assert!(answers.call(id(1)).is_none());
    }

    #[test]
    fn a_request_id_is_done_once_and_its_waiters_get_the_same_answer() {
        let mut answers = Answers::new(10);
        assert!(matches!(answers.keyed(id(1), "k", [1; 32]), Known::New));
        assert!(matches!(answers.keyed(id(2), "k", [1; 32]), Known::Pending));
        assert!(matches!(answers.keyed(id(3), "k", [2; 32]), Known::Reused(_)));
        assert_eq!(answers.keep(id(1), &done("once"), at(0)), [id(2)]);
        answers.expire(at(599));
        let Known::Answered(answer) = answers.keyed(id(4), "k", [1; 32]) else { panic!("forgotten") };
        assert_eq!(text(answer), "once");
        answers.expire(at(600));
        assert!(matches!(answers.keyed(id(5), "k", [2; 32]), Known::New));
    }

    #[test]
    fn a_failed_request_id_may_try_again() {
        let mut answers = Answers::new(10);
        assert!(matches!(answers.keyed(id(1), "k", [1; 32]), Known::New));
        answers.keep(id(1), &Err(refuse(Reason::NotEnoughPeers, "alone")), at(0));
        assert!(matches!(answers.keyed(id(2), "k", [1; 32]), Known::New));
        answers.abandon(id(2));
        assert!(matches!(answers.keyed(id(3), "k", [9; 32]), Known::New));
    }

    #[test]
    fn the_window_is_bounded() {
        let mut answers = Answers::new(3);
        for n in 0..10 {
            answers.keep(id(n), &done("x"), at(0));
        }
        assert_eq!(answers.calls.len(), 3);
        assert!(answers.call(id(9)).is_some());
    }
}
