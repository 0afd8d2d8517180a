//! Pods by the thousand.

#[test]
fn a_thousand_pods_come_and_go_and_leave_nothing() {
    super::runtime_rig::pods_come_and_go(1000);
}
