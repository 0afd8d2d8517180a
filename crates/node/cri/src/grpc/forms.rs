//! Values whose form on the wire is not that of their type: states in filters, profiles, signals, reasons, and lists of messages
//! that hold one text each.

use std::net::IpAddr;

use fram_grpc::message::Content;
use fram_grpc::wire::{Field, Malformed, Writer};
use fram_grpc::{enumeration, messages};

use crate::{ContainerReason, ContainerState, PodSandboxState, SecurityProfile, Signal};

/// A filter has a message around the state that it asks for, so that "any" is told from the first state.
macro_rules! state_values {
    ($($name:ident of $state:ty;)*) => {$(
        pub(super) struct $name(Option<$state>);

        impl From<&Option<$state>> for $name {
            fn from(state: &Option<$state>) -> Self {
                Self(*state)
            }
        }

        impl From<$name> for Option<$state> {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl Content for $name {
            fn put(&self, number: u64, writer: &mut Writer) {
                if let Some(state) = self.0 {
                    let mut inner = Writer::default();
                    state.put(1, &mut inner);
                    writer.put_piece(number, &inner.0);
                }
            }

            fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
                let mut state = <$state>::default();
                state.clear();
                for inner in fram_grpc::wire::fields(field.bytes()?) {
                    if let (1, value) = inner? {
                        state.take(value)?;
                    }
                }
                self.0 = Some(state);
                Ok(())
            }
        }
    )*};
}

state_values! {
    ContainerStateValue of ContainerState;
    PodSandboxStateValue of PodSandboxState;
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum ProfileType {
    #[default]
    RuntimeDefault,
    Unconfined,
    Localhost,
}

enumeration!(ProfileType { RuntimeDefault = 0, Unconfined = 1, Localhost = 2 });

messages! {
    ProfileMessage { profile_type: ProfileType = 1, localhost_ref: String = 2 }
    Name { name: String = 1 }
    PodIp { ip: Option<IpAddr> = 1 }
}

/// The message SecurityProfile, which may be absent.
pub(super) struct Profile(Option<ProfileMessage>);

impl From<&Option<SecurityProfile>> for Profile {
    fn from(profile: &Option<SecurityProfile>) -> Self {
        let message = |profile_type, localhost_ref: &str| ProfileMessage { profile_type, localhost_ref: localhost_ref.into() };
        Self(profile.as_ref().map(|profile| match profile {
            SecurityProfile::RuntimeDefault => message(ProfileType::RuntimeDefault, ""),
            SecurityProfile::Unconfined => message(ProfileType::Unconfined, ""),
            SecurityProfile::Localhost(name) => message(ProfileType::Localhost, name),
        }))
    }
}

impl From<Profile> for Option<SecurityProfile> {
    fn from(profile: Profile) -> Self {
        profile.0.map(|message| match message.profile_type {
            ProfileType::RuntimeDefault => SecurityProfile::RuntimeDefault,
            ProfileType::Unconfined => SecurityProfile::Unconfined,
            ProfileType::Localhost => SecurityProfile::Localhost(message.localhost_ref),
        })
    }
}

impl Content for Profile {
    fn put(&self, number: u64, writer: &mut Writer) {
        self.0.put(number, writer);
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        Content::take(&mut self.0, field)
    }
}

/// The enumeration Signal, whose numbers are its own: the place in this list, from 1 on; 0 is the runtime's choice.
#[derive(Default)]
pub(super) struct SignalForm(u64);

const SIGNALS: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP \
    TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ \
    RTMIN RTMIN+1 RTMIN+2 RTMIN+3 RTMIN+4 RTMIN+5 RTMIN+6 RTMIN+7 RTMIN+8 RTMIN+9 RTMIN+10 RTMIN+11 RTMIN+12 RTMIN+13 RTMIN+14 RTMIN+15 \
    RTMAX-14 RTMAX-13 RTMAX-12 RTMAX-11 RTMAX-10 RTMAX-9 RTMAX-8 RTMAX-7 RTMAX-6 RTMAX-5 RTMAX-4 RTMAX-3 RTMAX-2 RTMAX-1 RTMAX";

impl From<&Option<Signal>> for SignalForm {
    fn from(signal: &Option<Signal>) -> Self {
        let place = signal.and_then(|signal| SIGNALS.split(' ').position(|name| name.parse() == Ok(signal)));
        // The list has dozens of names.
        Self(place.map_or(0, |place| place as u64 + 1))
    }
}

impl From<SignalForm> for Option<Signal> {
    fn from(form: SignalForm) -> Self {
        let place = usize::try_from(form.0.checked_sub(1)?).ok()?;
        SIGNALS.split(' ').nth(place)?.parse().ok()
    }
}

impl From<&Signal> for SignalForm {
    fn from(signal: &Signal) -> Self {
        Self::from(&Some(*signal))
    }
}

impl From<SignalForm> for Signal {
    fn from(form: SignalForm) -> Self {
        Option::from(form).unwrap_or_default()
    }
}

impl Content for SignalForm {
    fn put(&self, number: u64, writer: &mut Writer) {
        self.0.put(number, writer);
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        self.0.take(field)
    }
}

/// Reasons are plain text; of those that are not known only that something is wrong is known.
pub(super) struct Reason(String);

impl From<&Option<ContainerReason>> for Reason {
    fn from(reason: &Option<ContainerReason>) -> Self {
        Self(reason.map(ContainerReason::as_str).unwrap_or_default().to_owned())
    }
}

impl From<Reason> for Option<ContainerReason> {
    fn from(reason: Reason) -> Self {
        match reason.0.as_str() {
            "" => None,
            "Completed" => Some(ContainerReason::Completed),
            "OOMKilled" => Some(ContainerReason::OomKilled),
            "StartError" | "ContainerCannotRun" => Some(ContainerReason::StartError),
            "Unknown" => Some(ContainerReason::Unknown),
            _ => Some(ContainerReason::Error),
        }
    }
}

impl Content for Reason {
    fn put(&self, number: u64, writer: &mut Writer) {
        self.0.put(number, writer);
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        self.0.take(field)
    }
}

/// A list of messages that hold one value each.
macro_rules! lists {
    ($($name:ident of $message:ident, $value:ty, |$from:ident| $make:expr, |$into:ident| $give:expr;)*) => {$(
        pub(super) struct $name(Vec<$message>);

        impl From<&Vec<$value>> for $name {
            fn from(values: &Vec<$value>) -> Self {
                Self(values.iter().map(|$from| $make).collect())
            }
        }

        impl From<$name> for Vec<$value> {
            fn from(list: $name) -> Self {
                list.0.into_iter().filter_map(|$into| $give).collect()
            }
        }

        impl Content for $name {
            fn put(&self, number: u64, writer: &mut Writer) {
                self.0.put(number, writer);
            }

            fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
                self.0.take(field)
            }
        }
    )*};
}

lists! {
    CdiDevices of Name, String, |name| Name { name: name.clone() }, |device| Some(device.name);
    PodIps of PodIp, IpAddr, |ip| PodIp { ip: Some(*ip) }, |address| address.ip;
}

#[cfg(test)]
mod tests {
    use fram_grpc::message::Message;

    use super::*;
    use crate::*;

    #[test]
    fn signals_have_the_numbers_of_the_api() {
        for (signal, number) in [("SIGABRT", 1), ("SIGKILL", 13), ("SIGTERM", 23), ("SIGXFSZ", 34), ("SIGRTMIN", 35), ("SIGRTMAX", 65)] {
            let signal: Signal = signal.parse().unwrap();
            assert_eq!(SignalForm::from(&signal).0, number, "{signal}");
            assert_eq!(Option::<Signal>::from(SignalForm(number)), Some(signal));
        }
        assert_eq!((Option::<Signal>::from(SignalForm(0)), Option::<Signal>::from(SignalForm(66))), (None, None));
    }

    #[test]
    fn what_is_absent_on_the_wire_is_the_first_state_and_not_the_default() {
        let status = ContainerStatus { state: ContainerState::Created, ..ContainerStatus::default() };
        assert_eq!(ContainerStatus::decode(&status.encode()).unwrap().state, ContainerState::Created);
        let sandbox = PodSandbox { state: PodSandboxState::Ready, ..PodSandbox::default() };
        assert_eq!(PodSandbox::decode(&sandbox.encode()).unwrap().state, PodSandboxState::Ready);
        let filter = PodSandboxFilter { state: Some(PodSandboxState::Ready), ..PodSandboxFilter::default() };
        assert_eq!(filter.encode(), [0x12, 0]);
        assert_eq!(PodSandboxFilter::decode(&filter.encode()).unwrap(), filter);
    }

    #[test]
    fn configurations_come_back_as_they_were_sent() {
        let linux = LinuxContainerSecurityContext {
            seccomp: Some(SecurityProfile::Localhost("/p".into())),
            apparmor: Some(SecurityProfile::RuntimeDefault),
            run_as_user: Some(0),
            supplemental_groups: vec![1, 0],
            ..LinuxContainerSecurityContext::default()
        };
        let mount = Mount { container_path: "/a".into(), image: Some(ImageSpec::new("i")), ..Mount::default() };
        let container = ContainerConfig {
            metadata: ContainerMetadata { name: "c".into(), attempt: 2 },
            cdi_devices: vec!["vendor.com/device=a".into()],
            mounts: vec![mount],
            resources: LinuxContainerResources { cpu_quota: -1, ..LinuxContainerResources::default() },
            security_context: linux,
            stop_signal: "SIGUSR1".parse().ok(),
            ..ContainerConfig::default()
        };
        assert_eq!(ContainerConfig::decode(&container.encode()).unwrap(), container);
        let sandbox = PodSandboxConfig {
            port_mappings: vec![PortMapping { host_port: 80, host_ip: "10.0.0.1".parse().ok(), ..PortMapping::default() }],
            ..PodSandboxConfig::default()
        };
        assert_eq!(PodSandboxConfig::decode(&sandbox.encode()).unwrap(), sandbox);
        let network = PodSandboxNetworkStatus::from_ips(["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(PodSandboxNetworkStatus::decode(&network.encode()).unwrap(), network);
    }
}
