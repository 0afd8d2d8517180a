//! Which right a request to the kubelet's port needs. Pure; see upstream's pkg/kubelet/server/auth.go.

use http::Method;

/// A right on this node: the verb, and subresources of which one suffices (KEP-2862).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) verb: &'static str,
    pub(super) subresources: Vec<&'static str>,
}

/// Subresources by the first step of a path.
const FINE: [(&str, &str); 4] = [("pods", "pods"), ("runningpods", "pods"), ("healthz", "healthz"), ("configz", "configz")];
const COARSE: [(&str, &str); 5] =
    [("stats", "stats"), ("metrics", "metrics"), ("logs", "log"), ("checkpoint", "checkpoint"), ("statusz", "statusz")];

pub(super) fn needed(method: &Method, first: &str) -> Needed {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        // No verb at all: only who may do everything may ask so.
        _ => "",
    };
    let of = |table: &[(&str, &'static str)]| table.iter().find(|(step, _)| *step == first).map(|(_, name)| *name);
    let subresources = of(&FINE).into_iter().chain([of(&COARSE).unwrap_or("proxy")]).collect();
    Needed { verb, subresources }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_right_of_its_own_needs_no_right_to_everything() {
        for (method, first, verb, subresources) in [
            (Method::GET, "pods", "get", &["pods", "proxy"][..]),
            (Method::GET, "runningpods", "get", &["pods", "proxy"]),
            (Method::GET, "healthz", "get", &["healthz", "proxy"]),
            (Method::GET, "configz", "get", &["configz", "proxy"]),
            (Method::GET, "stats", "get", &["stats"]),
            (Method::GET, "metrics", "get", &["metrics"]),
            (Method::GET, "logs", "get", &["log"]),
            (Method::POST, "checkpoint", "create", &["checkpoint"]),
            (Method::POST, "exec", "create", &["proxy"]),
            (Method::GET, "containerLogs", "get", &["proxy"]),
            (Method::HEAD, "metrics", "", &["metrics"]),
            (Method::GET, "", "get", &["proxy"]),
        ] {
            assert_eq!(needed(&method, first), Needed { verb, subresources: subresources.to_vec() }, "{method} {first}");
        }
    }
}
