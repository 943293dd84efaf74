//! How many sessions go over which master. Pure: it counts, and knows no process.
//!
//! `sshd` gives a connection `MaxSessions` places, ten unless it is told otherwise, and frees them late. So a master is filled
//! to about six of ten; the first one keeps places for the control channel and for files; bulk has a master of its own as long
//! as there may be another. What the machine refuses lowers the number; after a minute one more is tried, never on the first
//! master, and with each success another.

use std::time::Duration;

use tokio::time::Instant;

/// Masters for one machine.
pub(super) const MASTERS: usize = 4;
/// What a machine is believed to take until it refuses.
pub(super) const SESSIONS: u32 = 10;
/// Commands on one master of [`SESSIONS`].
const COMMANDS: u32 = 6;
/// After a refusal, how long until one more is tried.
const REMEMBERED: Duration = Duration::from_mins(1);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Control,
    Files,
    Command,
    Bulk,
}

impl Class {
    /// Who is served first.
    pub(super) const ALL: [Self; 4] = [Self::Control, Self::Files, Self::Command, Self::Bulk];
}

/// Sessions of one master.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seats {
    pub(super) master: u32,
    /// Keeps places for control and files.
    pub(super) first: bool,
    /// By class: granted, whether or not they are open yet.
    taken: [u32; 4],
    /// Those that the machine has accepted.
    pub(super) open: u32,
}

impl Seats {
    pub(super) fn taken(&self, class: Class) -> u32 {
        self.taken[class as usize]
    }

    fn total(&self) -> u32 {
        self.taken.iter().sum()
    }

    /// Places that others must leave for the control channel; with enough of them, also for its successor.
    fn kept_for_control(&self, limit: u32) -> u32 {
        if self.first { 1_u32.saturating_sub(self.taken(Class::Control)) + u32::from(limit >= 4) } else { 0 }
    }

    fn kept_for_files(&self, limit: u32) -> u32 {
        u32::from(self.first && limit >= 4 && self.taken(Class::Files) == 0)
    }

    /// Whether one more fits; `crowded` when there can be no further master, so that bulk and commands may meet.
    fn fits(&self, class: Class, limit: u32, crowded: bool) -> bool {
        let commands = (limit * COMMANDS / SESSIONS).clamp(1, COMMANDS);
        let (command, bulk) = (self.taken(Class::Command), self.taken(Class::Bulk));
        let control = self.kept_for_control(limit);
        let below = |kept: u32| self.total() + kept < limit;
        match class {
            Class::Control => below(0),
            Class::Files => below(control) && (bulk == 0 || crowded),
            Class::Command => {
                command < commands && below(control + self.kept_for_files(limit)) && (bulk == 0 || crowded)
            }
            Class::Bulk => {
                let apart = self.total() == bulk;
                !self.first && bulk < commands && below(0) && (apart || crowded)
            }
        }
    }
}

/// All masters of one machine.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) seats: Vec<Seats>,
    /// What the machine takes, and when it may be tried whether that is still so.
    learned: Option<(u32, Instant)>,
}

impl Room {
    /// Sessions that one connection is believed to have.
    pub(super) fn limit(&self) -> u32 {
        self.learned.map_or(SESSIONS, |(limit, _)| limit)
    }

    /// How much more may be tried, on other masters than the first.
    fn more(&self, now: Instant) -> u32 {
        u32::from(self.learned.is_some_and(|(_, until)| now >= until))
    }

    pub(super) fn add(&mut self, master: u32) {
        self.seats.push(Seats { master, ..Seats::default() });
        self.keep_first();
    }

    pub(super) fn remove(&mut self, master: u32) {
        self.seats.retain(|seats| seats.master != master);
        if self.seats.is_empty() {
            // It may be another machine, or another configuration, when it is reached again.
            self.learned = None;
        }
        self.keep_first();
    }

    /// The first master is one on which the control channel is or can be; there may be none until something ends.
    fn keep_first(&mut self) {
        let limit = self.limit();
        let able = |seats: &Seats| seats.taken(Class::Control) > 0 || seats.open < limit;
        if self.seats.iter().any(|seats| seats.first && able(seats)) {
            return;
        }
        self.seats.iter_mut().for_each(|seats| seats.first = false);
        if let Some(freest) = self.seats.iter_mut().filter(|seats| able(seats)).min_by_key(|seats| seats.open) {
            freest.first = true;
        }
    }

    /// Takes a place, on the least busy of the masters that fit.
    pub(super) fn take(&mut self, class: Class, now: Instant) -> Option<u32> {
        let (limit, more) = (self.limit(), self.more(now));
        let crowded = self.seats.len() >= MASTERS;
        // Bulk keeps to what is bulk's already, so that commands keep the rest; control to the first.
        let order = |seats: &&mut Seats| match class {
            Class::Bulk => (u32::from(seats.taken(Class::Bulk) == 0), seats.total()),
            Class::Control | Class::Files => (u32::from(!seats.first), seats.total()),
            Class::Command => (seats.taken(Class::Bulk), seats.total()),
        };
        let limit = |seats: &Seats| if seats.first { limit } else { limit + more };
        let fitting = self.seats.iter_mut().filter(|seats| seats.fits(class, limit(seats), crowded));
        let seats = fitting.min_by_key(order)?;
        seats.taken[class as usize] += 1;
        Some(seats.master)
    }

    /// Whether one could be had on a master that exists, if only others ended.
    pub(super) fn possible(&self, class: Class) -> bool {
        let limit = self.limit();
        let crowded = self.seats.len() >= MASTERS;
        let empty = |seats: &Seats| Seats { master: seats.master, first: seats.first, ..Seats::default() };
        self.seats.iter().any(|seats| empty(seats).fits(class, limit, crowded))
    }

    /// The machine has accepted the session.
    pub(super) fn opened(&mut self, master: u32) {
        let Some(seats) = self.of(master) else { return };
        seats.open += 1;
        let open = seats.open;
        if let Some((limit, _)) = &mut self.learned
            && open > *limit
        {
            *limit = open;
            if open >= SESSIONS {
                self.learned = None;
            }
        }
    }

    /// A place is free again; of a master that is gone, nothing happens.
    pub(super) fn free(&mut self, master: u32, class: Class, was_open: bool) {
        if let Some(seats) = self.of(master) {
            let taken = &mut seats.taken[class as usize];
            *taken = taken.saturating_sub(1);
            seats.open = seats.open.saturating_sub(u32::from(was_open));
        }
        self.keep_first();
    }

    /// The machine refused another session on this master, and did so again: what is open there is all that it takes.
    pub(super) fn refused(&mut self, master: u32, now: Instant) {
        let limit = self.limit();
        if let Some(seats) = self.of(master) {
            let open = seats.open.clamp(1, limit);
            self.learned = Some((open, now + REMEMBERED));
        }
        self.keep_first();
    }

    fn of(&mut self, master: u32) -> Option<&mut Seats> {
        self.seats.iter_mut().find(|seats| seats.master == master)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(masters: u32, limit: u32) -> (Room, Instant) {
        let now = Instant::now();
        let mut room = Room { learned: Some((limit, now + REMEMBERED)), ..Room::default() };
        (0..masters).for_each(|master| room.add(master));
        (room, now)
    }

    fn fill(room: &mut Room, class: Class, now: Instant) -> u32 {
        let taken = (0..100).take_while(|_| room.take(class, now).is_some()).count();
        u32::try_from(taken).unwrap()
    }

    #[test]
    fn commands_leave_room_for_control_and_files() {
        for limit in 1..=SESSIONS {
            let (mut room, now) = room(1, limit);
            let commands = fill(&mut room, Class::Command, now);
            assert!(commands <= COMMANDS);
            assert_eq!(commands == 0, limit == 1, "{commands} of {limit}");
            if limit >= 4 {
                assert_eq!(room.take(Class::Files, now), Some(0), "{limit}");
            }
            fill(&mut room, Class::Files, now);
            assert_eq!(room.take(Class::Control, now), Some(0), "{limit}");
            assert!(fill(&mut room, Class::Control, now) + 1 + commands <= limit);
        }
    }

    #[test]
    fn four_masters_carry_twenty_four_commands() {
        let (mut room, now) = room(4, SESSIONS);
        assert_eq!(fill(&mut room, Class::Command, now), 24);
        // And bulk comes through although it has no master of its own.
        assert!(room.take(Class::Bulk, now).is_some());
        assert!(room.take(Class::Control, now).is_some());
    }

    #[test]
    fn bulk_is_apart_as_long_as_it_can() {
        let (mut room, now) = room(2, SESSIONS);
        assert_eq!(room.take(Class::Bulk, now), Some(1));
        assert_eq!(fill(&mut room, Class::Command, now), 6);
        assert_eq!(room.seats[1].taken(Class::Command), 0);
        let (mut one, now) = self::room(1, SESSIONS);
        assert_eq!(one.take(Class::Bulk, now), None);
        assert!(!one.possible(Class::Bulk), "a second master is needed at once");
    }

    #[test]
    fn one_session_for_each_master_is_enough_to_work() {
        let (mut room, now) = room(4, 1);
        assert_eq!(fill(&mut room, Class::Command, now), 3);
        assert_eq!(room.take(Class::Control, now), Some(0));
        room.free(2, Class::Command, false);
        assert_eq!(room.take(Class::Bulk, now), Some(2));
    }

    #[test]
    fn a_refusal_is_learned_and_forgotten() {
        let (mut room, now) = room(1, SESSIONS);
        for class in [Class::Control, Class::Command, Class::Command] {
            room.take(class, now).unwrap();
            room.opened(0);
        }
        room.take(Class::Command, now).unwrap();
        room.refused(0, now);
        assert_eq!(room.limit(), 3);
        assert_eq!(room.take(Class::Command, now), None);
        // Later one more is tried, on another master than the first.
        let later = now + REMEMBERED;
        assert_eq!(room.take(Class::Command, later), None);
        room.add(1);
        for limit in [3, 3, 3, 4, 5] {
            assert_eq!(room.take(Class::Control, later), Some(1));
            room.opened(1);
            assert_eq!(room.limit(), limit);
        }
    }

    #[test]
    fn a_first_master_that_others_have_filled_hands_over() {
        let (mut room, now) = room(1, SESSIONS);
        // Commands come first, and there is one session on each master.
        for _ in 0..3 {
            room.take(Class::Command, now).unwrap();
        }
        room.opened(0);
        room.free(0, Class::Command, false);
        room.refused(0, now);
        assert_eq!(room.limit(), 1);
        room.add(1);
        assert!(!room.seats[0].first && room.seats[1].first);
        assert_eq!(room.take(Class::Command, now), None);
        assert_eq!(room.take(Class::Control, now), Some(1));
    }

    #[test]
    fn the_first_place_is_inherited() {
        let (mut room, now) = room(2, SESSIONS);
        room.remove(0);
        assert!(room.seats[0].first);
        assert_eq!(room.take(Class::Control, now), Some(1));
        room.free(0, Class::Control, true);
        assert_eq!(room.seats[0].taken(Class::Control), 1, "of a master that is gone, nothing is freed");
    }
}
