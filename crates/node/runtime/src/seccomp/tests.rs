//! The compiled programs, run by a small interpreter of classic BPF.

use std::collections::BTreeSet;

use super::*;

/// Runs a program on one call, as the kernel does.
fn run(program: &[Instruction], arch: Architecture, number: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch.audit(),
        offset => (args[(offset as usize - 16) / 8] >> (if offset % 8 == 0 { 0 } else { 32 })) as u32,
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction(code, t, f, k) = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { t } else { f });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn default_for(capabilities: &[&str]) -> Vec<Instruction> {
    compile(&default_profile(&capabilities.iter().map(|c| c.to_string()).collect::<BTreeSet<_>>())).unwrap()
}

fn call(program: &[Instruction], arch: Architecture, name: &str, first: u64) -> u32 {
    run(program, arch, arch.number(name).unwrap(), [first, 0, 0, 0, 0, 0])
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

#[test]
fn the_default_profile_allows_by_name_argument_and_capability() {
    let plain = default_for(&["CHOWN"]);
    for arch in default_profile(&BTreeSet::new()).architectures {
        for (name, first, expect) in [
            ("read", 0, ALLOW),
            ("mount", 0, EPERM),
            ("unshare", 0x1000_0000, EPERM),
            ("clone", 0x11, ALLOW),
            ("clone", 0x1000_0000, EPERM),
            ("clone3", 0, ENOSYS),
            ("personality", 0xffff_ffff, ALLOW),
            ("personality", 0x40000, EPERM),
            ("socket", 2, ALLOW),
            ("socket", 40, EPERM),
            ("keyctl", 0, EPERM),
            ("io_uring_setup", 0, EPERM),
            ("setns", 0, EPERM),
        ] {
            assert_eq!(call(&plain, arch, name, first), expect, "{arch:?} {name}({first:#x})");
        }
        let admin = default_for(&["SYS_ADMIN"]);
        for name in ["mount", "unshare", "clone3", "setns"] {
            assert_eq!(call(&admin, arch, name, 0x1000_0000), ALLOW, "{arch:?} {name}");
        }
        assert_eq!(run(&plain, arch, 100_000, [0; 6]), EPERM);
    }
}

#[test]
fn an_architecture_that_is_not_listed_is_killed() {
    let program = compile(&Profile { default: Action::Allow, architectures: vec![Architecture::X86_64], rules: Vec::new() }).unwrap();
    assert_eq!(run(&program, Architecture::X86_64, 0, [0; 6]), ALLOW);
    assert_eq!(run(&program, Architecture::X86, 0, [0; 6]), 0x8000_0000);
}

#[test]
fn every_name_of_a_table_is_found_by_its_search() {
    for (arch, table) in
        [(Architecture::X86_64, numbers::X86_64), (Architecture::X86, numbers::X86), (Architecture::Aarch64, numbers::AARCH64)]
    {
        for (name, number) in table {
            assert_eq!(arch.number(name), Some(*number));
        }
    }
}

#[test]
fn every_call_gets_the_treatment_that_its_rules_say() {
    let program = default_for(&["SYS_CHROOT"]);
    let profile = default_profile(&BTreeSet::from(["SYS_CHROOT".to_owned()]));
    for (name, number) in numbers::X86_64 {
        let unconditional = profile.rules.iter().find(|rule| rule.conditions.is_empty() && rule.names.iter().any(|n| n == name));
        let conditional = profile.rules.iter().any(|rule| !rule.conditions.is_empty() && rule.names.contains(&name.to_string()));
        if !conditional {
            let expect = unconditional.map_or(profile.default, |rule| rule.action).value();
            assert_eq!(run(&program, Architecture::X86_64, *number, [0; 6]), expect, "{name}");
        }
    }
}

#[test]
fn conditions_compare_all_64_bits() {
    let big = 0x1_0000_0005;
    for (operator, argument, holds) in [
        (Operator::Equal, big, true),
        (Operator::Equal, 5, false),
        (Operator::NotEqual, 5, true),
        (Operator::NotEqual, big, false),
        (Operator::Less, 0xffff_ffff, true),
        (Operator::Less, big, false),
        (Operator::Less, 0x1_0000_0004, true),
        (Operator::Less, 0x2_0000_0000, false),
        (Operator::LessOrEqual, big, true),
        (Operator::LessOrEqual, big + 1, false),
        (Operator::Greater, big, false),
        (Operator::Greater, big + 1, true),
        (Operator::Greater, 0x2_0000_0000, true),
        (Operator::Greater, 0xffff_ffff, false),
        (Operator::GreaterOrEqual, big, true),
        (Operator::GreaterOrEqual, 6, false),
    ] {
        let profile = Profile {
            default: Action::KillProcess,
            architectures: vec![Architecture::X86_64],
            rules: vec![Rule {
                names: vec!["read".into()],
                action: Action::Allow,
                conditions: vec![
                    Condition { index: 1, operator: Operator::MaskedEqual, value: 0xf0, second: 0x30 },
                    Condition { index: 0, operator, value: big, second: 0 },
                ],
            }],
        };
        let program = compile(&profile).unwrap();
        let result = run(&program, Architecture::X86_64, 0, [argument, 0x3f, 0, 0, 0, 0]);
        assert_eq!(result == ALLOW, holds, "{operator:?} {argument:#x}");
        assert_ne!(run(&program, Architecture::X86_64, 0, [argument, 0x4f, 0, 0, 0, 0]), ALLOW);
    }
}

#[test]
fn a_profile_file_of_the_runtime_specification_is_read() {
    let profile = parse(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
            "syscalls":[{"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#,
    )
    .unwrap();
    let program = compile(&profile).unwrap();
    let native = Architecture::native();
    assert_eq!(call(&program, native, "read", 0), ALLOW);
    if let Some(number) = native.number("mkdir") {
        assert_eq!(run(&program, native, number, [0; 6]), 0x0005_000d);
    }
    assert!(matches!(parse("{}"), Err(SeccompError::Malformed(_))));
    assert!(matches!(
        parse(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#),
        Err(SeccompError::Unsupported(_))
    ));
}

#[test]
fn a_profile_is_the_same_after_a_way_through_the_specification() {
    let names = ["SYS_CHROOT".to_owned()].into();
    let profile = default_profile(&names);
    assert_eq!(parse(&profile.oci().to_string()).unwrap(), profile);
}
