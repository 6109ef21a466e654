//! Who listens where. What is published waits here for the network, which takes it further.

use crate::bus::{Payload, Subject};
use prometheus_client::metrics::counter::Counter;
use std::collections::HashMap;

/// One connection of a process that listens: the process, its life, and the connection's number.
pub(crate) type Listener = (usize, u32, u32);

/// The live subjects that have listeners.
pub(crate) struct Subjects {
    listeners: HashMap<Subject, Vec<Listener>>,
    /// Frames on their way out.
    pub(super) out: Vec<(Listener, Subject, Payload)>,
}

impl Subjects {
    pub(super) fn new(_: usize, _: Counter) -> Self {
        Self { listeners: HashMap::new(), out: Vec::new() }
    }

    pub(crate) fn subscribe(&mut self, subject: &Subject, listener: Listener) {
        let listeners = self.listeners.entry(subject.clone()).or_default();
        listeners.retain(|(process, ..)| *process != listener.0);
        listeners.push(listener);
    }

    pub(crate) fn unsubscribe(&mut self, subject: &Subject, process: usize, life: u32) {
        if let Some(listeners) = self.listeners.get_mut(subject) {
            listeners.retain(|(other, lived, _)| (*other, *lived) != (process, life));
        }
    }

    /// Forgets a life of a process that has ended.
    pub(crate) fn forget(&mut self, process: usize, life: u32) {
        for listeners in self.listeners.values_mut() {
            listeners.retain(|(other, lived, _)| (*other, *lived) != (process, life));
        }
    }

    /// Forgets a connection that broke.
    pub(crate) fn broken(&mut self, process: usize) {
        for listeners in self.listeners.values_mut() {
            listeners.retain(|(other, ..)| *other != process);
        }
    }

    pub(super) fn publish(&mut self, subject: &Subject, frame: Payload) -> usize {
        let Some(listeners) = self.listeners.get(subject) else { return 0 };
        for listener in listeners {
            self.out.push((*listener, subject.clone(), frame.clone()));
        }
        listeners.len()
    }

    pub(super) fn sweep(&mut self) {}
}
