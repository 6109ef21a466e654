//! The target of the gateway that `PLEXUS_FUZZ` names.

#![no_main]

plexus_fuzz::targets!(plexus_gateway::fuzzing::TARGETS);
