//! Publishes the cluster's CA as the ClusterTrustBundle of the signer `kubernetes.io/kube-apiserver-serving`, where that kind is
//! served; other bundles of this signer go. See upstream's pkg/controller/certificates/clustertrustbundlepublisher.

use fram_client::{Action, Controller, DeleteOptions, Preconditions};
use fram_machinery::{Reason, Value, meta, object};

use crate::Context;
use crate::objects::{settled, unless_it_changed};

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";

pub(crate) fn start(context: &Context) {
    let Some(resource) = context.served("certificates.k8s.io", "clustertrustbundles") else { return };
    let bundles = context.informers.get(&resource);
    let bundle = bundle(&context.root_ca, &resource.version);
    let name = meta::name(&bundle).to_string();
    let client = context.client("kube-apiserver-serving-clustertrustbundle-publisher").all(&resource);
    // There is one key: all bundles of the signer together.
    let of_signer = |b: &Value| if is_of_signer(b) { vec![String::new()] } else { Vec::new() };
    let controller = Controller::new("kube-apiserver-serving-clustertrustbundle-publisher", 1).watches(&bundles, of_signer);
    controller.enqueuer().add("");
    context.run(controller, (client, bundles, bundle, name), |context, _| async move {
        let (client, bundles, bundle, name) = &*context;
        match bundles.get(name) {
            None => match client.create(bundle.clone()).await {
                Err(status) if !status.is(Reason::AlreadyExists) => return Err(status),
                _ => {}
            },
            Some(there) if there.str_at(&["spec", "trustBundle"]) != bundle.str_at(&["spec", "trustBundle"]) => {
                let mut there = (*there).clone();
                there.set(&["spec", "trustBundle"], bundle.str_at(&["spec", "trustBundle"]));
                unless_it_changed(client.update(there).await)?;
            }
            Some(_) => {}
        }
        for other in bundles.list().iter().filter(|b| is_of_signer(b) && meta::name(b) != name) {
            let preconditions = Preconditions { uid: Some(meta::uid(other).into()), resource_version: None };
            settled(client.delete(meta::name(other), DeleteOptions { preconditions, ..Default::default() }).await)?;
        }
        Ok(Action::Done)
    });
}

fn is_of_signer(bundle: &Value) -> bool {
    bundle.str_at(&["spec", "signerName"]) == SIGNER
}

/// The bundle as it should be; its name follows from what is in it, so that a new CA comes beside the old one before that goes.
fn bundle(ca: &str, version: &str) -> Value {
    let digest = ring::digest::digest(&ring::digest::SHA256, ca.as_bytes());
    let digits: String = digest.as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    object!({
        "apiVersion": (format!("certificates.k8s.io/{version}")), "kind": "ClusterTrustBundle",
        "metadata": { "name": (format!("{}:{digits}", SIGNER.replace('/', ":"))) },
        "spec": { "signerName": SIGNER, "trustBundle": ca }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_named_by_its_signer_and_its_contents() {
        let made = bundle("abc", "v1beta1");
        // SHA-256 of "abc", of FIPS 180-2.
        assert_eq!(meta::name(&made), "kubernetes.io:kube-apiserver-serving:ba7816bf8f01cfea414140de");
        assert_ne!(meta::name(&bundle("abd", "v1beta1")), meta::name(&made));
        assert!(is_of_signer(&made));
    }
}
