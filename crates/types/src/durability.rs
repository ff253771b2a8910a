//! What an acknowledged commit is safe from.

/// What an acknowledged commit is safe from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is on stable storage, of a majority of the voters.
    #[default]
    Flushed,
    /// On a node by itself: handed to the operating system and flushed soon after, so that only a crash of the
    /// machine loses it. With more nodes it is flushed all the same: a leader that forgot what it had
    /// acknowledged would write something else in its place, and others have that already.
    Relaxed,
}
