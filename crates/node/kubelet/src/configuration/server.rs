//! What a configuration says of who may ask the kubelet what: its port, TLS, streams, health.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use fram_machinery::Value;
use fram_machinery::normalize::format_duration;
use rustls::{CipherSuite, NamedGroup};

use super::Reading;
use crate::config::KubeletConfig;

/// Cipher suites of TLS 1.2 by Go's names. Those of 1.3 are always there, as with Go.
const CIPHER_SUITES: [(&str, CipherSuite); 8] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];
/// Others that Go knows and that are not spoken here: a list says what may be spoken, so they are only left out.
const NOT_SPOKEN: [&str; 17] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];
/// By their numbers in TLS (RFC 8446).
const CURVES: [(i64, NamedGroup); 3] = [(23, NamedGroup::secp256r1), (24, NamedGroup::secp384r1), (29, NamedGroup::X25519)];

impl Reading<'_> {
    pub(super) fn server(&mut self, config: &mut KubeletConfig) {
        self.flag("enableServer", &mut config.serve);
        self.number("port", 1, 65535, &mut config.port);
        if let Some(address) = self.text("address").map(String::from) {
            match address.parse() {
                Ok(address) => config.address = Some(address),
                Err(_) => self.faults.push(format!("address {address:?} must be an address")),
            }
        }
        self.flag("enableDebuggingHandlers", &mut config.debugging_handlers);
        self.flag("enableSystemLogHandler", &mut config.system_log_handler);
        self.flag("enableSystemLogQuery", &mut config.system_log_query);
        if config.system_log_query && !config.system_log_handler {
            self.faults.push("enableSystemLogHandler is required for enableSystemLogQuery".into());
        }
        self.healthz(config);
        self.tls(config);
        self.zero_or_duration("streamingConnectionIdleTimeout", &mut config.streaming_idle);
        let reviews = &mut config.reviews;
        self.duration(&["authentication", "webhook", "cacheTTL"], &mut reviews.known);
        self.duration(&["authorization", "webhook", "cacheAuthorizedTTL"], &mut reviews.allowed);
        self.duration(&["authorization", "webhook", "cacheUnauthorizedTTL"], &mut reviews.refused);
    }

    /// Unlike others, in which zero is the default.
    fn zero_or_duration(&mut self, name: &str, into: &mut Duration) {
        if !self.document.str_at(&[name]).is_empty() {
            *into = Duration::ZERO;
            self.duration(&[name], into);
        }
    }

    fn healthz(&mut self, config: &mut KubeletConfig) {
        let known = config.healthz.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
        let mut port = known.port();
        self.number("healthzPort", 0, 65535, &mut port);
        let address = match self.text("healthzBindAddress").map(str::parse) {
            None => known.ip(),
            Some(Ok(address)) => address,
            Some(Err(_)) => return self.faults.push("healthzBindAddress must be an address".into()),
        };
        config.healthz = (port > 0).then_some(SocketAddr::new(address, port));
    }

    fn tls(&mut self, config: &mut KubeletConfig) {
        let tls = &mut config.serving_tls;
        let client_ca = self.document.str_at(&["authentication", "x509", "clientCAFile"]);
        tls.client_ca = Some(client_ca).filter(|path| !path.is_empty()).map(PathBuf::from);
        match (self.text("tlsCertFile"), self.text("tlsPrivateKeyFile")) {
            (None, None) => {}
            (Some(certificate), Some(key)) => tls.files = Some((certificate.into(), key.into())),
            _ => self.faults.push("tlsCertFile and tlsPrivateKeyFile must be given together".into()),
        }
        let names = self.texts("tlsCipherSuites").unwrap_or_default();
        for name in &names {
            match CIPHER_SUITES.iter().find(|(known, _)| known == name) {
                Some((_, suite)) => tls.cipher_suites.push(*suite),
                None if NOT_SPOKEN.contains(&name.as_str()) => {}
                None => self.faults.push(format!("tlsCipherSuites: cipher suite {name} not supported or doesn't exist")),
            }
        }
        for id in self.document.list_at(&["tlsCurvePreferences"]).iter().filter_map(Value::as_int) {
            match CURVES.iter().find(|(known, _)| *known == id) {
                Some((_, curve)) => tls.curves.push(*curve),
                None => self.faults.push(format!("tlsCurvePreferences: curve {id} is not supported: 23, 24 and 29 are")),
            }
        }
        // What is older than version 1.2 is not spoken at all, so asking for it takes nothing away.
        let versions = [("VersionTLS10", false), ("VersionTLS11", false), ("VersionTLS12", false), ("VersionTLS13", true)];
        self.word("tlsMinVersion", &versions, &mut config.serving_tls.only_13);
        if !names.is_empty() && config.serving_tls.cipher_suites.is_empty() && !config.serving_tls.only_13 {
            self.faults.push("tlsCipherSuites: none of them is spoken in TLS 1.2: set tlsMinVersion to VersionTLS13".into());
        }
    }
}

/// The same, as it is in force.
pub(super) fn shown(config: &KubeletConfig, out: &mut Value) {
    let time = |d: Duration| format_duration(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    out.set(&["enableServer"], config.serve);
    if config.port > 0 {
        out.set(&["port"], i64::from(config.port));
    }
    if let Some(address) = config.address {
        out.set(&["address"], address.to_string());
    }
    out.set(&["enableDebuggingHandlers"], config.debugging_handlers);
    out.set(&["enableSystemLogHandler"], config.system_log_handler);
    out.set(&["enableSystemLogQuery"], config.system_log_query);
    out.set(&["healthzPort"], config.healthz.map_or(0, |address| i64::from(address.port())));
    if let Some(address) = config.healthz {
        out.set(&["healthzBindAddress"], address.ip().to_string());
    }
    out.set(&["streamingConnectionIdleTimeout"], time(config.streaming_idle));
    out.set(&["authentication", "anonymous", "enabled"], false);
    out.set(&["authentication", "webhook", "enabled"], true);
    out.set(&["authentication", "webhook", "cacheTTL"], time(config.reviews.known));
    out.set(&["authorization", "mode"], "Webhook");
    out.set(&["authorization", "webhook", "cacheAuthorizedTTL"], time(config.reviews.allowed));
    out.set(&["authorization", "webhook", "cacheUnauthorizedTTL"], time(config.reviews.refused));
    let tls = &config.serving_tls;
    if let Some(file) = &tls.client_ca {
        out.set(&["authentication", "x509", "clientCAFile"], file.display().to_string());
    }
    if let Some((certificate, key)) = &tls.files {
        out.set(&["tlsCertFile"], certificate.display().to_string());
        out.set(&["tlsPrivateKeyFile"], key.display().to_string());
    }
    if tls.only_13 {
        out.set(&["tlsMinVersion"], "VersionTLS13");
    }
    let name = |suite: &CipherSuite| CIPHER_SUITES.iter().find(|(_, known)| known == suite).map(|(name, _)| Value::from(*name));
    let suites: Vec<Value> = tls.cipher_suites.iter().filter_map(name).collect();
    if !suites.is_empty() {
        out.set(&["tlsCipherSuites"], suites);
    }
    let number = |curve: &NamedGroup| CURVES.iter().find(|(_, known)| known == curve).map(|(number, _)| Value::from(*number));
    let curves: Vec<Value> = tls.curves.iter().filter_map(number).collect();
    if !curves.is_empty() {
        out.set(&["tlsCurvePreferences"], curves);
    }
}
