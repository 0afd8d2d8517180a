//! What the sources of a projected volume show that has to be fetched first: tokens, trust anchors, certificates.

use std::collections::BTreeMap;
use std::time::Duration;

use fram_machinery::Value;
use jiff::Timestamp;

use super::certificate::Credentials;
use crate::context::Context;
use crate::worker::RETRY;

/// What was fetched for one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fetched {
    Token(String),
    Anchors(String),
    Credentials(Credentials),
}

/// What was fetched, by the position of its source in the volume.
pub(crate) type Sources = BTreeMap<usize, Fetched>;

/// Why a volume cannot be shown yet, and when to look again where nobody tells.
pub(crate) struct NotYet {
    pub message: String,
    pub again: Duration,
}

/// For as long as upstream waits at most between two tries to mount a volume.
const LONG: Duration = Duration::from_secs(122);

/// Fetches what a volume shows; also returns when that has to be done again.
pub(crate) async fn fetch(ctx: &Context, pod: &Value, volume: &Value) -> Result<(Sources, Option<Timestamp>), NotYet> {
    let (mut out, mut due) = (Sources::new(), Vec::new());
    let not_yet = |message: String, again| NotYet { message, again };
    for (index, source) in volume.list_at(&["projected", "sources"]).iter().enumerate() {
        let now = ctx.clock.now();
        if let Some(source) = source.get("serviceAccountToken") {
            let got = ctx.tokens.get(pod, source, now).await;
            let (token, at) = got.map_err(|status| not_yet(format!("failed to fetch token: {status}"), RETRY))?;
            out.insert(index, Fetched::Token(token));
            due.push(at);
        } else if let Some(source) = source.get("clusterTrustBundle") {
            let got = ctx.trust.get(pod, source).await;
            out.insert(index, Fetched::Anchors(got.map_err(|error| not_yet(error.to_string(), RETRY))?));
        } else if let Some(source) = source.get("podCertificate") {
            let got = ctx.certificates.get(pod, volume.str_at(&["name"]), index, source, now).await;
            got.told.into_iter().for_each(|(reason, message)| ctx.event(pod, true, reason, message));
            let again = |told_of| if told_of { LONG } else { RETRY };
            let credentials = got.credentials.map_err(|error| not_yet(error.to_string(), again(error.is_told_of())))?;
            out.insert(index, Fetched::Credentials(credentials));
            due.extend(got.due);
        }
    }
    Ok((out, due.into_iter().min()))
}
