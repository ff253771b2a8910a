//! A digest of what happened in a run, to tell whether another run was the same. With `PROTEUS_SIM_TRACE`
//! set every event is printed, so that two runs which are not can be compared line by line.

use parking_lot::Mutex;

/// FNV's offset basis.
const BASIS: u64 = 0xCBF2_9CE4_8422_2325;

/// A digest of events in their order (FNV-1a).
#[derive(Debug)]
pub struct Trace {
    digest: Mutex<u64>,
    is_printed: bool,
}

impl Default for Trace {
    fn default() -> Trace {
        let is_printed = std::env::var_os("PROTEUS_SIM_TRACE").is_some();
        Trace { digest: Mutex::new(BASIS), is_printed }
    }
}

impl Trace {
    /// Adds an event: numbers that say what it was, and bytes.
    pub fn add(&self, what: &str, numbers: &[u64], bytes: &[u8]) {
        let numbers_digest = numbers.iter().fold(fold(BASIS, what.as_bytes()), |digest, number| {
            fold(digest, &number.to_le_bytes())
        });
        let event = fold(numbers_digest, bytes);
        if self.is_printed {
            eprintln!("{what} {numbers:?} {event:x}");
        }
        let mut digest = self.digest.lock();
        *digest = fold(*digest, &event.to_le_bytes());
    }

    /// The digest of all events so far.
    pub fn digest(&self) -> u64 {
        *self.digest.lock()
    }
}

fn fold(digest: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(digest, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}
