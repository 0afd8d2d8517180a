//! How well devices of drivers are (KEP-4680): a driver that says so is listened to, and what it said does not count for ever. See
//! upstream's pkg/kubelet/cm/dra/healthinfo.go.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::messages::DeviceHealth;

/// What counts for so long without being said again; upstream's DefaultHealthTimeout.
const LASTS: Duration = Duration::from_secs(30);
/// Upstream's maximum of characters in a message.
const LONGEST: usize = 1024;

/// Driver, pool and device.
type Place = (String, String, String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    word: &'static str,
    message: String,
    until: Instant,
}

/// What drivers have said of their devices.
#[derive(Debug, Default)]
pub(super) struct Health(HashMap<Place, Known>);

/// The words of the API, by the numbers of the plugins' one.
fn word(number: i32) -> &'static str {
    match number {
        1 => "Healthy",
        2 => "Unhealthy",
        _ => "Unknown",
    }
}

fn shortened(message: String) -> String {
    if message.chars().count() <= LONGEST {
        return message;
    }
    message.chars().take(LONGEST - 3).chain("...".chars()).collect()
}

impl Health {
    /// A driver has told of its devices. Those that it leaves out stay as they were until their time is up. Gives whether it said anything
    /// new.
    pub(super) fn tell(&mut self, driver: &str, devices: Vec<DeviceHealth>, now: Instant) -> bool {
        let mut news = false;
        for told in devices {
            let device = told.device.unwrap_or_default();
            let lasts = u64::try_from(told.timeout_seconds).ok().filter(|n| *n > 0).map_or(LASTS, Duration::from_secs);
            let until = now.checked_add(lasts).unwrap_or(now + LASTS);
            let known = Known { word: word(told.health), message: shortened(told.message), until };
            news |= self.of(driver, &device.pool_name, &device.device_name, now) != (known.word, &*known.message);
            self.0.insert((driver.into(), device.pool_name, device.device_name), known);
        }
        news
    }

    /// Of a driver that nobody listens to any more nothing is known. Gives whether anything was.
    pub(super) fn forget(&mut self, driver: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(of, ..), _| of != driver);
        self.0.len() < before
    }

    /// How a device is, and what is said of it.
    pub(super) fn of(&self, driver: &str, pool: &str, device: &str, now: Instant) -> (&'static str, &str) {
        match self.0.get(&(driver.into(), pool.into(), device.into())) {
            Some(known) if known.until > now => (known.word, &known.message),
            _ => ("Unknown", ""),
        }
    }

    /// When something that a driver has said stops to count next.
    pub(super) fn next_end(&self, driver: &str, now: Instant) -> Option<Instant> {
        self.0.iter().filter(|((of, ..), known)| of == driver && known.until > now).map(|(_, known)| known.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::DeviceIdentifier;
    use super::*;

    #[test]
    fn what_a_driver_says_counts_for_its_time_and_what_it_leaves_out_goes_on_until_then() {
        let begin = Instant::now();
        let at = |s: u64| begin + Duration::from_secs(s);
        let device = |name: &str, health: i32, timeout_seconds: i64| DeviceHealth {
            device: Some(DeviceIdentifier { pool_name: "p".into(), device_name: name.into() }),
            health,
            timeout_seconds,
            message: "m".repeat(2000),
            ..DeviceHealth::default()
        };
        let mut health = Health::default();
        assert!(health.tell("d", vec![device("a", 1, 0), device("b", 2, 60)], at(0)));
        assert!(health.tell("d", vec![device("b", 1, -1)], at(10)));
        for (name, second, expect) in
            [("a", 29, "Healthy"), ("a", 30, "Unknown"), ("b", 39, "Healthy"), ("b", 40, "Unknown"), ("c", 0, "Unknown")]
        {
            assert_eq!(health.of("d", "p", name, at(second)).0, expect, "{name} {second}");
        }
        let message = health.of("d", "p", "a", at(0)).1;
        assert!(message.len() == LONGEST && message.ends_with("m..."));
        assert_eq!(
            (health.next_end("d", at(0)), health.next_end("d", at(30)), health.next_end("e", at(0))),
            (Some(at(30)), Some(at(40)), None)
        );
        assert!(!health.tell("d", vec![device("b", 1, 0)], at(20)), "it says the same again");
        assert!(health.tell("d", vec![device("b", 1, 0)], at(60)), "what it had said no longer counted");
        health.tell("e", vec![device("a", 1, 0)], at(60));
        assert!(health.forget("d") && !health.forget("d"));
        assert_eq!((health.of("d", "p", "b", at(60)).0, health.of("e", "p", "a", at(60)).0), ("Unknown", "Healthy"));
    }
}
