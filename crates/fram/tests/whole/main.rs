//! What takes long, for `cargo xtask test --full`: the whole shop, a clock that is set, idle minutes, and pods by the thousand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../e2e/shop/by_hand.rs"]
mod by_hand;
mod clock;
#[path = "../e2e/cluster.rs"]
#[allow(dead_code, reason = "the short tests use more of it")]
mod cluster;
mod idle;
#[path = "../e2e/image.rs"]
mod image;
#[path = "../e2e/machine.rs"]
#[allow(dead_code, reason = "the short tests use more of it")]
mod machine;
mod pods;
#[path = "../e2e/registry.rs"]
#[allow(dead_code, reason = "the short tests use more of it")]
mod registry;
#[path = "../e2e/runtime_rig.rs"]
mod runtime_rig;
mod shop;
#[path = "../e2e/shop/stage.rs"]
mod stage;
