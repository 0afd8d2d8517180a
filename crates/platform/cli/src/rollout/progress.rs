//! How far an update has come, from the object alone. Pure. See kubectl's polymorphichelpers, rollout_status.

use fram_machinery::{Value, meta};

/// Where an update stands, in kubectl's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub text: String,
    pub done: bool,
}

fn going(text: String) -> Progress {
    Progress { text, done: false }
}

fn done(text: String) -> Progress {
    Progress { text, done: true }
}

/// The state of a Deployment, DaemonSet or StatefulSet; an error where it will not come to an end.
pub fn progress(kind: &str, object: &Value, revision: Option<i64>) -> Result<Progress, String> {
    match kind {
        "Deployment" => deployment(object, revision),
        "DaemonSet" => daemon_set(object),
        "StatefulSet" => stateful_set(object),
        other => Err(format!("no status viewer has been implemented for {other}")),
    }
}

fn count(object: &Value, name: &str) -> i64 {
    object.int_at(&["status", name]).unwrap_or(0)
}

fn is_observed(object: &Value) -> bool {
    meta::generation(object) <= count(object, "observedGeneration")
}

fn deployment(object: &Value, revision: Option<i64>) -> Result<Progress, String> {
    let name = meta::name(object);
    if let Some(wanted) = revision.filter(|r| *r > 0) {
        let now = meta::annotation(object, "deployment.kubernetes.io/revision").and_then(|r| r.parse::<i64>().ok()).unwrap_or(0);
        if now != wanted {
            return Err(format!("desired revision ({wanted}) is different from the running revision ({now})"));
        }
    }
    if !is_observed(object) {
        return Ok(going("Waiting for deployment spec update to be observed...".into()));
    }
    if meta::condition(object, "Progressing").is_some_and(|c| c.str_at(&["reason"]) == "ProgressDeadlineExceeded") {
        return Err(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let wanted = object.int_at(&["spec", "replicas"]).unwrap_or(1);
    let (all, updated, available) = (count(object, "replicas"), count(object, "updatedReplicas"), count(object, "availableReplicas"));
    let waiting = format!("Waiting for deployment {name:?} rollout to finish:");
    Ok(if updated < wanted {
        going(format!("{waiting} {updated} out of {wanted} new replicas have been updated..."))
    } else if all > updated {
        going(format!("{waiting} {} old replicas are pending termination...", all - updated))
    } else if available < updated {
        going(format!("{waiting} {available} of {updated} updated replicas are available..."))
    } else {
        done(format!("deployment {name:?} successfully rolled out"))
    })
}

fn daemon_set(object: &Value) -> Result<Progress, String> {
    let name = meta::name(object);
    if object.str_at(&["spec", "updateStrategy", "type"]) != "RollingUpdate" {
        return Err("rollout status is only available for RollingUpdate strategy type".into());
    }
    if !is_observed(object) {
        return Ok(going("Waiting for daemon set spec update to be observed...".into()));
    }
    let (wanted, updated) = (count(object, "desiredNumberScheduled"), count(object, "updatedNumberScheduled"));
    let available = count(object, "numberAvailable");
    let waiting = format!("Waiting for daemon set {name:?} rollout to finish:");
    Ok(if updated < wanted {
        going(format!("{waiting} {updated} out of {wanted} new pods have been updated..."))
    } else if available < wanted {
        going(format!("{waiting} {available} of {wanted} updated pods are available..."))
    } else {
        done(format!("daemon set {name:?} successfully rolled out"))
    })
}

fn stateful_set(object: &Value) -> Result<Progress, String> {
    if object.str_at(&["spec", "updateStrategy", "type"]) != "RollingUpdate" {
        return Err("rollout status is only available for RollingUpdate strategy type".into());
    }
    if count(object, "observedGeneration") == 0 || !is_observed(object) {
        return Ok(going("Waiting for statefulset spec update to be observed...".into()));
    }
    let wanted = object.int_at(&["spec", "replicas"]).unwrap_or(1);
    let (ready, updated) = (count(object, "readyReplicas"), count(object, "updatedReplicas"));
    if ready < wanted {
        return Ok(going(format!("Waiting for {} pods to be ready...", wanted - ready)));
    }
    if let Some(rolling) = object.at(&["spec", "updateStrategy", "rollingUpdate"]).filter(|r| !r.is_null()) {
        let aim = rolling.int_at(&["partition"]).map_or(0, |partition| wanted - partition);
        return Ok(match updated < aim {
            true => going(format!("Waiting for partitioned roll out to finish: {updated} out of {aim} new pods have been updated...")),
            false => done(format!("partitioned roll out complete: {updated} new pods have been updated...")),
        });
    }
    let revision = |name: &str| object.str_at(&["status", name]).to_string();
    let (update, current) = (revision("updateRevision"), revision("currentRevision"));
    Ok(match update == current {
        false => going(format!("waiting for statefulset rolling update to complete {updated} pods at revision {update}...")),
        true => done(format!("statefulset rolling update complete {} pods at revision {current}...", count(object, "currentReplicas"))),
    })
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn deployment_with(replicas: i64, updated: i64, available: i64) -> Value {
        object!({ "metadata": { "name": "web", "generation": 2, "annotations": { "deployment.kubernetes.io/revision": "4" } },
            "spec": { "replicas": 3 },
            "status": { "observedGeneration": 2, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available } })
    }

    #[test]
    fn a_deployment_says_what_it_still_waits_for() {
        let says = |object: &Value| progress("Deployment", object, None).map(|p| (p.text, p.done));
        let waiting = |rest: &str| Ok((format!("Waiting for deployment \"web\" rollout to finish: {rest}..."), false));
        assert_eq!(says(&deployment_with(3, 1, 3)), waiting("1 out of 3 new replicas have been updated"));
        assert_eq!(says(&deployment_with(4, 3, 3)), waiting("1 old replicas are pending termination"));
        assert_eq!(says(&deployment_with(3, 3, 2)), waiting("2 of 3 updated replicas are available"));
        assert_eq!(says(&deployment_with(3, 3, 3)), Ok(("deployment \"web\" successfully rolled out".into(), true)));
        let mut unseen = deployment_with(3, 3, 3);
        unseen.set(&["status", "observedGeneration"], 1);
        assert!(!says(&unseen).unwrap().1);
        let mut late = deployment_with(3, 1, 1);
        late.set(&["status", "conditions"], object!([{ "type": "Progressing", "reason": "ProgressDeadlineExceeded" }]));
        assert!(says(&late).unwrap_err().contains("progress deadline"));
        assert!(progress("Deployment", &late, Some(3)).unwrap_err().contains("running revision (4)"));
    }

    #[test]
    fn sets_say_it_too() {
        let daemons = object!({ "metadata": { "name": "d", "generation": 1 }, "spec": { "updateStrategy": { "type": "RollingUpdate" } },
            "status": { "observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1 } });
        assert!(progress("DaemonSet", &daemons, None).unwrap().text.contains("1 of 2 updated pods are available"));
        let set = object!({ "metadata": { "name": "s", "generation": 1 }, "spec": { "replicas": 2, "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } } },
            "status": { "observedGeneration": 1, "readyReplicas": 2, "updatedReplicas": 1, "updateRevision": "b", "currentRevision": "a" } });
        let says = |object: &Value| progress("StatefulSet", object, None).map(|p| (p.text, p.done));
        let waiting = "Waiting for partitioned roll out to finish: 1 out of 2 new pods have been updated...";
        assert_eq!(says(&set), Ok((waiting.into(), false)));
        // As kubectl has it: where pods are replaced one after another, the number of new ones decides.
        let mut through = set.clone();
        through.set(&["status", "updatedReplicas"], 2);
        assert_eq!(says(&through), Ok(("partitioned roll out complete: 2 new pods have been updated...".into(), true)));
        let mut plain = set.clone();
        plain.remove(&["spec", "updateStrategy", "rollingUpdate"]);
        assert_eq!(says(&plain), Ok(("waiting for statefulset rolling update to complete 1 pods at revision b...".into(), false)));
    }
}
