//! One suite, every carrier: what `Port` promises, a case each. A case gets a store of its own, so any
//! of them can run beside any other. Those that last as long as a lease all begin together, each on a
//! thread of its own, as soon as the first of them is asked for.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod cases;
mod ground;
mod server;

use ground::Carrier;
use std::{
    collections::HashMap,
    panic::resume_unwind,
    sync::{LazyLock, Mutex},
    thread::JoinHandle,
};

/// The slow cases under way, by carrier and name.
struct Slow(Mutex<HashMap<(&'static str, &'static str), JoinHandle<()>>>);

/// A slow case on one carrier.
struct Job {
    name: (&'static str, &'static str),
    run: fn(),
}

impl Slow {
    fn start(jobs: impl Iterator<Item = Job>) -> Self {
        Self(Mutex::new(jobs.map(|job| (job.name, std::thread::spawn(job.run))).collect()))
    }

    fn join(&self, carrier: &'static str, name: &'static str) {
        let job = self.0.lock().unwrap().remove(&(carrier, name)).expect("every slow case was begun");
        if let Err(panic) = job.join() {
            resume_unwind(panic);
        }
    }
}

/// Makes a test of each case for each carrier.
macro_rules! suite {
    (every carrier $shared:tt servers $own:tt) => {
        suite! {
            on Embedded as embedded $shared
            on Strict as strict $shared
            on Redis as redis $shared
            on Redis as redis_alone $own
        }
    };
    ($(on $carrier:ident as $module:ident $cases:tt)*) => {
        static SLOW: LazyLock<Slow> = LazyLock::new(|| {
            let jobs = [$(suite!(@jobs $carrier, $cases)),*];
            Slow::start(jobs.into_iter().flatten())
        });
        $(mod $module { use super::*; suite!(@tests $carrier, $cases); })*
    };
    (@jobs $carrier:ident, {
        $($part:ident { $($case:ident)* } slow { $($slow:ident)* })*
    }) => {
        vec![$($(Job {
            name: (stringify!($carrier), stringify!($slow)),
            run: || ground::run(Carrier::$carrier, cases::$part::$slow),
        },)*)*]
    };
    (@tests $carrier:ident, { $($part:ident { $($case:ident)* } slow { $($slow:ident)* })* }) => {
        $(mod $part {
            use super::*;
            $(#[test] fn $case() { ground::run(Carrier::$carrier, cases::$part::$case) })*
            $(#[test] fn $slow() { SLOW.join(stringify!($carrier), stringify!($slow)) })*
        })*
    };
}

suite! {
    every carrier {
        live {
            a_frame_reaches_every_subscriber
            a_publish_answers_how_many_listen
            what_is_published_after_a_subscription_arrives
            frames_arrive_in_the_order_of_their_sender
            a_subject_carries_only_its_own_frames
            an_envelope_arrives_whole
            a_slow_subscriber_is_told_how_much_it_missed
            a_lag_counts_every_frame_dropped
            a_subscriber_that_never_reads_holds_up_nobody
            a_dropped_subscription_counts_no_more
            one_that_leaves_hears_all_that_it_was_counted_for
            a_place_is_free_again_after_one_of_two_left
            subscriptions_are_bounded
            an_oversize_frame_is_refused
            a_topic_has_1_to_1024_bytes
            an_entry_arrives_as_it_was_published
        } slow {
        }
        history {
            an_entry_is_logged_and_heard_alike
            an_opening_is_logged_and_heard_alike
            the_first_opening_of_a_log_has_nothing_before
            an_opening_tells_the_tail_before
            an_opening_without_a_record_is_not_sure
            doubt_stays_with_logs_that_seem_empty
            known_wanted_and_given_topics_are_opened
            a_topic_is_opened_once_per_grant
            a_later_topic_is_opened_only_where_the_first_opening_is_there
            an_older_grant_cannot_open
            another_nonce_of_the_same_epoch_cannot_open
            an_older_grant_cannot_append
            another_nonce_of_the_same_epoch_cannot_append
            a_grant_that_did_not_open_cannot_append
            what_is_fenced_is_not_heard
            a_repeated_append_is_refused
            a_hole_is_refused
            an_old_id_is_refused_after_all_was_trimmed
            an_append_never_makes_a_log
            one_append_answers_for_each_topic
            an_append_keeps_about_as_many_entries_as_asked
            an_append_that_makes_no_sense_is_refused
            a_sweep_drops_logs_without_messages_that_nobody_wants
            without_a_sweep_an_empty_log_stays
            a_sweep_drops_nothing_of_its_own_epoch
            a_swept_log_begins_anew
            an_opening_is_the_callers_marker_and_more
        } slow {
        }
        logs {
            a_log_reads_both_ways_within_bounds
            a_log_that_is_not_there_reads_as_nothing
            an_extent_tells_how_far_a_log_reaches
            a_trim_keeps_the_newest_and_the_tail
            a_stale_owner_cannot_trim
            tops_answer_for_many_logs_in_order
            a_look_tells_grant_era_and_tails
            a_stamp_counts_only_from_the_owner_in_the_present_era
            replicas_that_are_not_there_are_not_reported
            an_erased_node_leaves_nothing
            a_stale_owner_cannot_erase
            an_owner_may_erase_before_it_opens
            a_state_is_refused_from_a_stale_owner
            a_state_fences_what_is_older
            an_erased_node_is_closed_to_older_grants
            a_state_and_a_record_are_read_together
            interest_is_written_read_and_removed
        } slow {
        }
        ownership {
            a_free_node_is_taken_above_the_clock
            a_held_node_is_not_taken
            the_same_take_again_answers_the_same_epoch
            a_holder_cannot_take_under_another_nonce
            one_take_answers_for_each_node
            a_worker_without_a_lease_takes_nothing
            a_lease_begins_only_fresh
            a_grant_is_raised_above_its_floor
            a_raise_without_a_floor_is_above_the_grant
            only_ones_own_grant_is_raised
            a_released_node_gets_a_larger_epoch
            epochs_do_not_count_up_by_one
            a_floor_is_not_exceeded_by_one
            only_the_owner_releases
            a_release_repeated_does_nothing
            every_change_of_a_record_counts
            owners_list_every_node
            takes_and_releases_are_told
            a_retired_worker_is_gone_at_once
            workers_are_those_alive
            a_node_is_enlisted_once
            an_enlisted_node_stays_with_its_owner
            a_node_may_be_taken_before_it_is_enlisted
            only_the_owner_strikes
            a_struck_node_is_free_to_be_enlisted_again
            a_gateway_attends
        } slow {
            a_lease_lives_six_seconds_and_no_longer
            a_renewal_extends_a_lease
            an_expired_lease_is_lost
            a_stolen_node_leaves_the_record_of_the_dead
            a_gateway_attends_for_fifteen_seconds
        }
        keys {
            a_value_is_written_only_where_it_may_be
            a_value_is_removed_only_where_it_may_be
            revisions_begin_again_after_a_deletion
            a_value_may_be_any_bytes
            values_of_one_name_are_kept_apart
            one_of_many_writers_wins
            a_key_ends_with_its_term
            a_key_that_ended_is_not_there_at_once
            a_write_without_a_term_stays
            a_write_that_may_not_be_leaves_the_term
            keys_are_listed_by_prefix_in_order
            changes_of_free_keys_are_told
            a_record_tells_nobody_by_itself
            a_name_has_1_to_512_bytes
            a_value_that_is_too_large_is_refused
            a_term_is_for_free_keys
        } slow {
        }
        faults {
            every_call_ends_within_its_deadline
            a_store_that_stood_still_is_used_again
            too_many_calls_are_refused_and_none_is_forgotten
            what_may_have_run_is_told_apart_from_what_did_not
            a_restored_connection_is_told_and_goes_on
            a_closed_bus_answers_closed
            a_closed_bus_ends_its_subscriptions
            a_call_given_up_by_its_caller_harms_nobody
        } slow {
        }
    }
    servers {
        faults {
            a_dead_server_is_answered_for_in_time
            functions_that_were_flushed_are_loaded_again
            a_new_era_makes_openings_unsure
            a_stamp_makes_the_next_opening_sure
            a_later_topic_vouches_for_nothing
            a_lost_opening_is_not_made_up_for_by_a_later_topic
            a_renewal_tells_the_era
        } slow {
            nothing_is_taken_for_six_seconds_after_an_era
            a_new_era_gives_every_lease_a_full_term
            a_renewal_within_the_grace_is_answered_though_expired
        }
    }
}
