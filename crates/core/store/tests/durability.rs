//! What the embedded engine owes to the disk: recovery, damage, faults and loss of power, on the modelled disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "durability/check.rs"]
mod check;
#[path = "durability/damage.rs"]
mod damage;
#[path = "durability/directory.rs"]
mod directory;
#[path = "durability/faults.rs"]
mod faults;
#[path = "durability/full_disk.rs"]
mod full_disk;
#[path = "durability/recovery.rs"]
mod recovery;
#[path = "durability/rig.rs"]
mod rig;
#[path = "durability/simulation.rs"]
mod simulation;
