//! Which devices a container may use where cgroups of version 2 are: these have no files for it, but a program that the kernel asks at
//! every mknod(2) and open(2) of a device; see "Device controller" in the kernel's cgroup-v2.rst, and bpf(2).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// A register for what is between.
const SOME: u8 = 0;

const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const EVERYTHING: i32 = MKNOD | READ | WRITE;

/// A rule: `c 1:3 rwm`, with `a` for both types and `*` for any number, allowed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    allow: bool,
    /// As in `struct bpf_cgroup_dev_ctx`; both where it is none.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    pub(super) fn parse(text: &str, allow: bool) -> io::Result<Rule> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is no rule of devices"));
        let mut parts = text.split(' ');
        let (Some(kind), Some((major, minor)), Some(access), None) =
            (parts.next(), parts.next().and_then(|numbers| numbers.split_once(':')), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let number = |text: &str| match text {
            "*" => Ok(None),
            text => text.parse().map(Some).map_err(|_| wrong()),
        };
        let kind = match kind {
            "a" => None,
            "b" => Some(1),
            "c" | "u" => Some(2),
            _ => return Err(wrong()),
        };
        let access = access.chars().try_fold(0, |all, of| match of {
            'm' => Ok(all | MKNOD),
            'r' => Ok(all | READ),
            'w' => Ok(all | WRITE),
            _ => Err(wrong()),
        })?;
        Ok(Rule { allow, kind, major: number(major)?, minor: number(minor)?, access })
    }

    /// Says what the rule says, or goes on behind it where it is about something else.
    fn append(&self, program: &mut Vec<Instruction>) {
        let mut tests = Vec::new();
        let mut equal =
            |register, wanted: Option<i32>| tests.extend(wanted.map(|value| Instruction::new(JUMP_UNLESS_EQUAL, register, 0, value)));
        equal(TYPE, self.kind);
        equal(MAJOR, self.major);
        equal(MINOR, self.minor);
        if self.access != EVERYTHING {
            tests.push(Instruction::new(MOVE, SOME, ACCESS, 0));
            tests.push(Instruction::new(AND, SOME, 0, self.access));
            // Allowed is what is asked for as a whole; what is not allowed must not be among it.
            tests.push(match self.allow {
                true => Instruction::new(JUMP_UNLESS_SAME, SOME, ACCESS, 0),
                false => Instruction::new(JUMP_IF_EQUAL, SOME, 0, 0),
            });
        }
        let length = tests.len();
        for (place, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, JUMP_UNLESS_EQUAL | JUMP_UNLESS_SAME | JUMP_IF_EQUAL) {
                // Over the other tests, and the answer's two instructions. There are few.
                test.offset = (length - place - 1 + 2) as i16;
            }
        }
        program.append(&mut tests);
        program.extend(answer(self.allow));
    }
}

/// An instruction as the kernel has it (`struct bpf_insn`).
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// The destination in the lower half, the source in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, immediate: i32) -> Instruction {
        Instruction { code, registers: destination | source << 4, offset: 0, immediate }
    }
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_SAME: u8 = 0x5d;
const EXIT: u8 = 0x95;

fn answer(allow: bool) -> [Instruction; 2] {
    [Instruction::new(SET, SOME, 0, i32::from(allow)), Instruction::new(EXIT, 0, 0, 0)]
}

/// The last rule that is about what is asked for decides; without one it is not allowed.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    // Of `struct bpf_cgroup_dev_ctx`: access and type in one word, then the numbers.
    const CONTEXT: u8 = 1;
    let load = |register, offset| Instruction { offset, ..Instruction::new(LOAD_WORD, register, CONTEXT, 0) };
    let mut program = vec![
        load(TYPE, 0),
        Instruction::new(MOVE, ACCESS, TYPE, 0),
        Instruction::new(AND, TYPE, 0, 0xffff),
        Instruction::new(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        rule.append(&mut program);
        // Nothing is left to be asked, and the kernel takes no instruction that is never reached.
        if *rule == (Rule { allow: rule.allow, kind: None, major: None, minor: None, access: EVERYTHING }) {
            return program;
        }
    }
    program.extend(answer(false));
    program
}

/// As much of `union bpf_attr` as loading a program takes.
#[derive(Default)]
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The same of attaching one.
#[derive(Default)]
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> nix::Result<libc::c_long> {
    // SAFETY: the kernel reads a structure whose size is given, and what its members point to, which outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) })
}

/// From now on processes in the cgroup below this directory use devices by these rules. They end with the cgroup.
pub(super) fn attach(dir: &Path, rules: &[Rule]) -> io::Result<()> {
    const PROG_LOAD: libc::c_int = 5;
    const PROG_ATTACH: libc::c_int = 8;
    const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    /// Beside the programs of cgroups above: all of them have to allow it.
    const ALLOW_MULTI: u32 = 2;

    let program = program(rules);
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        // Rules are some dozens.
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    let loaded = match bpf(PROG_LOAD, &load) {
        Err(Errno::EPERM) if !is_initial_user_namespace()? => return Ok(()),
        loaded => loaded?,
    };
    // SAFETY: the kernel has just made this descriptor; it fits an int.
    let program = unsafe { OwnedFd::from_raw_fd(loaded as i32) };
    let dir = File::open(dir)?;
    let attach = Attach { target: dir.as_raw_fd() as u32, program: program.as_raw_fd() as u32, kind: CGROUP_DEVICE, flags: ALLOW_MULTI };
    bpf(PROG_ATTACH, &attach)?;
    Ok(())
}

/// Elsewhere nobody makes devices, and a root that is none on the node loads no programs: containers there have those that are bound
/// into them, with the rights of whoever owns the namespace.
fn is_initial_user_namespace() -> io::Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(map.split_whitespace().eq(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program answers, by the few instructions that are used here.
    fn run(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i64 {
        let context = [access << 16 | kind, major, minor];
        let (mut registers, mut at) = ([0_i64; 11], 0);
        loop {
            let of = program[at];
            let (to, from) = (usize::from(of.registers & 15), usize::from(of.registers >> 4));
            let value = i64::from(of.immediate);
            at += 1;
            let jumps = match of.code {
                JUMP_IF_EQUAL => registers[to] == value,
                JUMP_UNLESS_EQUAL => registers[to] != value,
                JUMP_UNLESS_SAME => registers[to] != registers[from],
                _ => false,
            };
            match of.code {
                LOAD_WORD => registers[to] = i64::from(context[of.offset as usize / 4]),
                MOVE => registers[to] = registers[from],
                SET => registers[to] = value,
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                EXIT => return registers[0],
                _ => {}
            }
            if jumps {
                at += of.offset as usize;
            }
        }
    }

    fn rules(texts: &[(bool, &str)]) -> Vec<Rule> {
        texts.iter().map(|(allow, text)| Rule::parse(text, *allow).unwrap()).collect()
    }

    #[test]
    fn the_last_rule_that_is_about_a_device_decides() {
        let program = program(&rules(&[
            (false, "a *:* rwm"),
            (true, "c *:* m"),
            (true, "c 1:3 rwm"),
            (true, "b 8:* r"),
            (false, "b 8:1 r"),
            (true, "c 10:200 rw"),
        ]));
        let may = |kind, access, major, minor| run(&program, kind, access, major, minor) == 1;
        let (block, char) = (1, 2);
        assert!(may(char, READ | WRITE, 1, 3) && may(char, MKNOD, 1, 3) && !may(char, READ, 1, 1));
        assert!(may(char, MKNOD, 99, 1) && !may(block, MKNOD, 99, 1));
        assert!(may(block, READ, 8, 2) && !may(block, READ | WRITE, 8, 2) && !may(block, READ, 8, 1));
        assert!(may(char, READ | WRITE, 10, 200) && !may(char, READ | WRITE | MKNOD, 10, 200));
    }

    #[test]
    fn everything_and_nothing() {
        assert_eq!(run(&program(&rules(&[(true, "a *:* rwm")])), 1, EVERYTHING, 8, 0), 1);
        assert_eq!(run(&program(&[]), 2, READ, 1, 3), 0);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in ["", "c 1:3", "x 1:3 r", "c 1 r", "c 1:x r", "c 1:3 rq", "c 1:3 r w"] {
            assert!(Rule::parse(text, true).is_err(), "{text}");
        }
    }

    /// The kernel's own answer, of the hierarchy of version 2 that every machine has mounted somewhere.
    #[test]
    fn the_kernel_holds_processes_to_it() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4)).unwrap();
        let dir = Path::new(mount).join(format!("fram-devices-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        attach(&dir, &rules(&[(false, "a *:* rwm"), (true, "c 1:3 rwm")])).unwrap();
        let script = format!("echo 0 > {}/cgroup.procs; : < /dev/null && echo null; : < /dev/zero && echo zero", dir.display());
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        fs::remove_dir(&dir).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}
