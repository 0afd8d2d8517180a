//! TaintNodesByCondition: nothing is placed on a new node before it is known to be ready. The node lifecycle controller takes the
//! taint away.

use fram_machinery::{Status, Value, object};

use super::{Operation, Plugin, Request};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait::async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        if !request.is_about("", "Node") || request.operation != Operation::Create {
            return Ok(object);
        }
        let is_there = |t: &Value| t.str_at(&["key"]) == NOT_READY && t.str_at(&["effect"]) == "NoSchedule";
        if !object.list_at(&["spec", "taints"]).iter().any(is_there) {
            object.place(&["spec", "taints"]).make_list().push(object!({ "key": NOT_READY, "effect": "NoSchedule" }));
        }
        Ok(object)
    }
}
