//! Seccomp: a profile (rules over system call names) and the BPF program that it becomes. Pure; `shim::privileges`
//! installs the program. The profile is Fram's default one or a file in the form of the OCI runtime specification.

mod bpf;
mod default;
mod numbers;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

pub(crate) use bpf::compile;
pub(crate) use default::default_profile;

/// One instruction of classic BPF, as `struct sock_filter`: code, jump if true, jump if false, operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instruction(pub u16, pub u8, pub u8, pub u32);

/// What happens to a call, as the kernel's `SECCOMP_RET_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Errno(u16),
    KillProcess,
    KillThread,
    Trap,
    Trace(u16),
    Log,
}

impl Action {
    pub(crate) fn value(self) -> u32 {
        match self {
            Action::KillProcess => 0x8000_0000,
            Action::KillThread => 0,
            Action::Trap => 0x0003_0000,
            Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Action::Trace(data) => 0x7ff0_0000 | u32::from(data),
            Action::Log => 0x7ffc_0000,
            Action::Allow => 0x7fff_0000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `argument & value == second`.
    MaskedEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Of the argument, 0 to 5.
    pub index: u8,
    pub operator: Operator,
    pub value: u64,
    pub second: u64,
}

/// The conditions all hold; none means always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub names: Vec<String>,
    pub action: Action,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86_64,
    X86,
    Aarch64,
}

impl Architecture {
    /// What this program was built for.
    pub(crate) fn native() -> Architecture {
        if cfg!(target_arch = "aarch64") { Architecture::Aarch64 } else { Architecture::X86_64 }
    }

    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 => 0xc000_003e,
            Architecture::X86 => 0x4000_0003,
            Architecture::Aarch64 => 0xc000_00b7,
        }
    }

    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let table = match self {
            Architecture::X86_64 => numbers::X86_64,
            Architecture::X86 => numbers::X86,
            Architecture::Aarch64 => numbers::AARCH64,
        };
        table.binary_search_by_key(&name, |(known, _)| known).ok().map(|at| table[at].1)
    }
}

/// Calls of an architecture that is not listed kill the process, as libseccomp does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    pub default: Action,
    pub architectures: Vec<Architecture>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Error)]
pub(crate) enum SeccompError {
    #[error("seccomp profile is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("seccomp profile: {0} is not supported")]
    Unsupported(String),
    #[error("seccomp profile: argument index {0} is not one of 0 to 5")]
    Argument(usize),
    #[error("seccomp profile makes {0} instructions, more than the kernel's 4096")]
    TooLong(usize),
}

/// Reads a profile of the OCI runtime specification (config-linux.md, "Seccomp"). Names of system calls that no
/// architecture has are ignored, as runc does.
pub(crate) fn parse(json: &str) -> Result<Profile, SeccompError> {
    let oci: LinuxSeccomp = serde_json::from_str(json)?;
    let errno = |given: Option<u32>| given.map_or(libc::EPERM as u16, |number| number as u16);
    let action = |action: LinuxSeccompAction, number: Option<u32>| {
        Ok(match action {
            LinuxSeccompAction::ScmpActAllow => Action::Allow,
            LinuxSeccompAction::ScmpActErrno => Action::Errno(errno(number)),
            LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
            LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
            LinuxSeccompAction::ScmpActTrap => Action::Trap,
            LinuxSeccompAction::ScmpActTrace => Action::Trace(errno(number)),
            LinuxSeccompAction::ScmpActLog => Action::Log,
            LinuxSeccompAction::ScmpActNotify => return Err(SeccompError::Unsupported("SCMP_ACT_NOTIFY".into())),
        })
    };
    let mut rules = Vec::new();
    for syscall in oci.syscalls().iter().flatten() {
        let mut conditions = Vec::new();
        for arg in syscall.args().iter().flatten() {
            let index = u8::try_from(arg.index()).ok().filter(|index| *index < 6);
            conditions.push(Condition {
                index: index.ok_or(SeccompError::Argument(arg.index()))?,
                operator: match arg.op() {
                    LinuxSeccompOperator::ScmpCmpEq => Operator::Equal,
                    LinuxSeccompOperator::ScmpCmpNe => Operator::NotEqual,
                    LinuxSeccompOperator::ScmpCmpLt => Operator::Less,
                    LinuxSeccompOperator::ScmpCmpLe => Operator::LessOrEqual,
                    LinuxSeccompOperator::ScmpCmpGt => Operator::Greater,
                    LinuxSeccompOperator::ScmpCmpGe => Operator::GreaterOrEqual,
                    LinuxSeccompOperator::ScmpCmpMaskedEq => Operator::MaskedEqual,
                },
                value: arg.value(),
                second: arg.value_two().unwrap_or(0),
            });
        }
        let names = syscall.names().clone();
        rules.push(Rule { names, action: action(syscall.action(), syscall.errno_ret())?, conditions });
    }
    let mut architectures = vec![Architecture::native()];
    if architectures == [Architecture::X86_64] && names_x86(&oci) {
        architectures.push(Architecture::X86);
    }
    Ok(Profile { default: action(oci.default_action(), oci.default_errno_ret())?, architectures, rules })
}

impl Profile {
    /// In the form of the OCI runtime specification.
    pub(crate) fn oci(&self) -> Value {
        let architecture = |arch: &Architecture| match arch {
            Architecture::X86_64 => "SCMP_ARCH_X86_64",
            Architecture::X86 => "SCMP_ARCH_X86",
            Architecture::Aarch64 => "SCMP_ARCH_AARCH64",
        };
        let condition = |c: &Condition| {
            let op = match c.operator {
                Operator::Equal => "SCMP_CMP_EQ",
                Operator::NotEqual => "SCMP_CMP_NE",
                Operator::Less => "SCMP_CMP_LT",
                Operator::LessOrEqual => "SCMP_CMP_LE",
                Operator::Greater => "SCMP_CMP_GT",
                Operator::GreaterOrEqual => "SCMP_CMP_GE",
                Operator::MaskedEqual => "SCMP_CMP_MASKED_EQ",
            };
            json!({ "index": c.index, "value": c.value, "valueTwo": c.second, "op": op })
        };
        let rule = |rule: &Rule| {
            let (action, number) = rule.action.oci();
            let mut out = json!({ "names": rule.names, "action": action });
            if let Some(number) = number {
                out["errnoRet"] = number.into();
            }
            if !rule.conditions.is_empty() {
                out["args"] = rule.conditions.iter().map(condition).collect();
            }
            out
        };
        let (default, number) = self.default.oci();
        let mut out = json!({
            "defaultAction": default,
            "architectures": self.architectures.iter().map(architecture).collect::<Vec<_>>(),
            "syscalls": self.rules.iter().map(rule).collect::<Vec<_>>(),
        });
        if let Some(number) = number {
            out["defaultErrnoRet"] = number.into();
        }
        out
    }
}

impl Action {
    fn oci(self) -> (&'static str, Option<u16>) {
        match self {
            Action::Allow => ("SCMP_ACT_ALLOW", None),
            Action::Errno(number) => ("SCMP_ACT_ERRNO", Some(number)),
            Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
            Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
            Action::Trap => ("SCMP_ACT_TRAP", None),
            Action::Trace(number) => ("SCMP_ACT_TRACE", Some(number)),
            Action::Log => ("SCMP_ACT_LOG", None),
        }
    }
}

fn names_x86(oci: &LinuxSeccomp) -> bool {
    oci.architectures().iter().flatten().any(|arch| *arch == oci_spec::runtime::Arch::ScmpArchX86)
}

#[cfg(test)]
mod tests;
