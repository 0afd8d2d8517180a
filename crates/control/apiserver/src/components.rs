//! ComponentStatuses: how the control plane's parts are, by upstream's names. Nothing of it is stored.

use fram_client::Verb;
use fram_machinery::{Status, Value, meta, object};
use tokio_util::task::TaskTracker;

use crate::http_api::store_health;
use crate::registry::{Place, Selection};
use crate::server::{Answer, Performed, Server};

impl Server {
    /// Tells of a component that runs in this process, by its tasks.
    pub fn show_component(&self, name: &'static str, tasks: TaskTracker) {
        self.components.lock().push((name, tasks));
    }
}

pub(crate) async fn execute(server: &Server, place: Place, verb: Verb) -> Result<Performed, Status> {
    let answer = match verb {
        Verb::Get => {
            let found = all(server).await.into_iter().find(|component| meta::name(component) == place.name);
            Answer::Object { served: place.served.clone(), object: found.ok_or_else(|| place.not_found())?, entry: None, created: false }
        }
        Verb::List(options) => {
            let selection = Selection::parse(place.kind(), &options.label_selector, &options.field_selector)?;
            let mut objects = all(server).await;
            objects.retain(|component| selection.chooses(place.kind(), component));
            Answer::Objects { place, objects }
        }
        _ => return Err(Status::method_not_allowed("", &place.kind().plural, "")),
    };
    Ok(Performed { answer, warnings: Vec::new() })
}

async fn all(server: &Server) -> Vec<Value> {
    let ended = || Err("its tasks have ended".to_string());
    let state = |tasks: &TaskTracker| if tasks.is_empty() { ended() } else { Ok(()) };
    let mut all: Vec<Value> = server.components.lock().iter().map(|(name, tasks)| status(name, state(tasks))).collect();
    all.push(status("etcd-0", store_health(server).await));
    all.sort_by(|a, b| meta::name(a).cmp(meta::name(b)));
    all
}

fn status(name: &str, state: Result<(), String>) -> Value {
    let condition = match state {
        Ok(()) => object!({ "type": "Healthy", "status": "True", "message": "ok" }),
        Err(why) => object!({ "type": "Healthy", "status": "False", "error": why }),
    };
    object!({ "apiVersion": "v1", "kind": "ComponentStatus", "metadata": { "name": name }, "conditions": [condition] })
}
