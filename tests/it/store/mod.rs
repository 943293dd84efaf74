//! What the store promises, as one list of cases over an open store: each database runs the same list.

mod batches;
mod claims;
mod fused;
pub(crate) mod ground;
mod lists;
mod migrations;
mod opening;
mod records;
mod slots;
mod states;
mod waits;

/// One test per case and engine.
macro_rules! conformance {
    ($($area:ident::$case:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$area::$case(super::ground::sqlite().await).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(ground) = super::ground::postgres().await {
                    super::$area::$case(ground).await;
                }
            })+
        }
    };
}

conformance! {
    states::every_pair_of_lease_states_is_decided,
    states::every_pair_of_resource_states_is_decided,
    states::a_write_on_an_old_version_is_refused,
    states::a_change_wakes_who_waits_and_hurries_what_ends,
    slots::a_slot_has_one_holder,
    slots::all_slots_or_none,
    slots::slots_go_back_by_holder_and_by_scope,
    slots::a_lost_fence_takes_nothing,
    slots::the_last_place_goes_to_one_of_many,
    claims::the_order_is_band_then_ord_then_depth_then_id,
    claims::a_task_is_claimed_once,
    claims::a_claim_of_a_tree_reaches_what_the_tree_waits_for,
    claims::a_claim_that_is_renewed_does_not_lapse,
    claims::a_lapsed_claim_goes_back_and_its_step_leaves_nothing,
    claims::five_crashes_are_poison_and_a_retry_is_another_life,
    claims::a_poisoned_task_is_told_until_its_subject_has_ended,
    claims::who_dies_in_company_is_given_more_deaths_and_no_more,
    claims::claims_of_one_daemon_that_lapse_one_after_the_other_are_in_company,
    claims::a_daemon_that_lives_takes_back_what_was_made_of_its_claims,
    claims::a_claim_that_is_handed_back_counts_as_no_crash,
    claims::the_next_claim_comes_with_the_commit,
    claims::a_step_that_says_no_keeps_its_claim_and_writes_nothing,
    fused::a_step_that_needs_only_the_transaction_is_taken_along,
    fused::a_step_that_fails_along_spoils_no_other,
    fused::a_commit_claims_for_who_has_nothing_to_do,
    waits::a_signal_between_claim_and_park_makes_it_ready,
    waits::what_changed_since_the_look_is_not_waited_for,
    waits::a_wake_forgets_the_wait,
    waits::timers_fire_when_they_are_due,
    waits::a_failure_counts_and_a_park_forgets_it,
    waits::the_baton_goes_down_the_queue_once,
    waits::a_baton_that_is_kept_goes_no_further,
    waits::two_wakes_of_a_pool_wake_two,
    waits::commits_tell_what_they_set_in_motion,
    batches::a_failing_operation_leaves_the_others_of_its_batch_committed,
    batches::an_operation_that_panics_is_an_error_of_its_caller_alone,
    batches::a_caller_that_leaves_takes_nothing_back,
    batches::a_look_that_writes_leaves_nothing,
    records::a_request_is_remembered_for_a_day_with_its_body,
    records::effects_are_begun_once_and_remembered,
    records::who_has_lost_a_claim_writes_no_effects,
    records::what_is_old_is_taken_away_and_nothing_else,
    records::a_round_of_taking_away_is_bounded,
    records::daemons_that_live_are_on_record,
    records::a_blueprint_is_found_by_id_and_name_and_replaced_by_version,
    lists::leases_are_filtered_by_every_field,
    lists::pages_show_each_entry_once,
    lists::what_belongs_to_others_is_not_listed,
    lists::prefixes_and_odd_keys_are_taken_as_they_are,
    lists::finished_tasks_are_not_shown,
    lists::events_are_paged_in_the_order_of_commits,
}
