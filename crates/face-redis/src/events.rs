//! Classes of keyspace events and their letters, as `notify-keyspace-events` has them.

use proteus_kernel_api::cache::Class;

/// Announce on the channel of the key.
pub(crate) const KEYSPACE: u32 = 1;
/// Announce on the channel of the event.
pub(crate) const KEYEVENT: u32 = 1 << 1;

/// The bit of a class of events, by its letter.
pub(crate) fn event_bits(letter: u8) -> Option<u32> {
    let at = b"KEg$lshzxetdnm".iter().position(|other| *other == letter)?;
    Some(1 << at)
}

/// The classes that `A` stands for.
pub(crate) const ALL_CLASSES: &[u8] = b"g$lshzxetd";

/// The bit of a class of events.
pub(crate) fn class_bits(class: Class) -> u32 {
    event_bits(class.letter()).unwrap_or(0)
}

pub(crate) fn parse_events(text: &str) -> Option<u32> {
    let mut events = 0;
    for letter in text.bytes() {
        if letter == b'A' {
            events |= ALL_CLASSES
                .iter()
                .filter_map(|class| event_bits(*class))
                .fold(0, |bits, bit| bits | bit);
        } else {
            events |= event_bits(letter)?;
        }
    }
    Some(events)
}

/// The flags in the order in which Redis shows them.
pub(crate) fn event_text(events: u32) -> String {
    let has = |letter: u8| event_bits(letter).is_some_and(|bit| events & bit != 0);
    let mut text = String::new();
    if ALL_CLASSES.iter().all(|class| has(*class)) {
        text.push('A');
    } else {
        text.extend(ALL_CLASSES.iter().filter(|class| has(**class)).map(|class| *class as char));
    }
    for (letter, bit) in [('K', KEYSPACE), ('E', KEYEVENT)] {
        if events & bit != 0 {
            text.push(letter);
        }
    }
    for letter in [b'm', b'n'] {
        if has(letter) {
            text.push(letter as char);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_as_redis_shows_them() {
        for (given, shown) in
            [("KEA", "AKE"), ("Ex", "xE"), ("", ""), ("Kg$n", "g$Kn"), ("AgKE", "AKE")]
        {
            assert_eq!(event_text(parse_events(given).unwrap()), shown);
        }
        assert_eq!(parse_events("q"), None);
    }
}
