//! The target of the worker that `PLEXUS_FUZZ` names.

#![no_main]

plexus_fuzz::targets!(plexus_worker::swarm::guard::fuzzing::TARGETS);
