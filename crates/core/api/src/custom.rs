//! The kinds of a custom resource, read from its CustomResourceDefinition. From then on they take the same way as the
//! built-in ones. What the server does about definitions is not here; what it should say of them is in `status`.

pub(crate) mod rules;
pub mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fram_machinery::jsonpath::JsonPath;
use fram_machinery::schema::SchemaError;
use fram_machinery::structural::{self, Structural};
use fram_machinery::{Key, Schema, Value, json, meta};

use crate::deprecation::Deprecation;
use crate::kind::{Age, Cell, Column, Custom, Generation, Kind, ScalePaths, Scope, Subresource};

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DefinitionError {
    #[error("the definition has no storage version")]
    NoStorage,
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// The kinds of one CustomResourceDefinition.
#[derive(Debug)]
pub struct CustomResource {
    /// One for each served version.
    pub served: Vec<Arc<Kind>>,
    /// The storage version, served or not.
    pub stored: Arc<Kind>,
}

const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// What is left of the verbs when the definition is being deleted.
const VERBS_AT_THE_END: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];

impl CustomResource {
    /// Reads a definition whose names were accepted; the types of its kinds refer to those of `base`.
    pub fn read(base: &Arc<Schema>, definition: &Value) -> Result<Self, DefinitionError> {
        let mut served = Vec::new();
        let mut stored = None;
        for version in definition.list_at(&["spec", "versions"]) {
            let kind = Arc::new(read_version(base, definition, version)?);
            if kind.storage {
                stored = Some(kind.clone());
            }
            if version.bool_at(&["served"]) == Some(true) {
                served.push(kind);
            }
        }
        Ok(Self { served, stored: stored.ok_or(DefinitionError::NoStorage)? })
    }

    /// `group/plural`
    pub fn name(&self) -> Key {
        format!("{}/{}", self.stored.group, self.stored.plural).into()
    }

    pub(crate) fn version(&self, version: &str) -> Option<&Arc<Kind>> {
        self.served.iter().find(|k| k.version == version)
    }
}

fn texts(value: &Value, path: &[&str]) -> Vec<Key> {
    value.list_at(path).iter().filter_map(Value::as_str).map(Key::from).collect()
}

fn read_version(base: &Arc<Schema>, definition: &Value, version: &Value) -> Result<Kind, DefinitionError> {
    let name = |field: &str| Key::from(definition.str_at(&["status", "acceptedNames", field]));
    let group = Key::from(definition.str_at(&["spec", "group"]));
    let version_name = Key::from(version.str_at(&["name"]));
    let nothing = Value::Null;
    let written = version.at(&["schema", "openAPIV3Schema"]).unwrap_or(&nothing);
    let structural = Arc::new(Structural::read(written));
    let mut schema = Schema::over(base.clone());
    let openapi_name = openapi_name(&group, &version_name, &name("kind"));
    let ty = structural::root_type(&mut schema, &openapi_name, structural.clone())?;
    let has_status = version.at(&["subresources", "status"]).is_some_and(|s| !s.is_null());
    let scale = version.at(&["subresources", "scale"]).filter(|s| !s.is_null()).map(scale_paths);
    let versions = definition.list_at(&["spec", "versions"]).len();
    let custom = Custom {
        definition: meta::name(definition).into(),
        // Without the room that writing left behind it.
        openapi: json::to_vec(written).into_boxed_slice().into(),
        outdated: meta::generation(definition) > 1 || versions > 1,
        rules: rules::Rules::read(written).map(Arc::new),
        scale: scale.clone(),
        conversion: definition
            .at(&["spec", "conversion", "webhook"])
            .filter(|w| !w.is_null() && definition.str_at(&["spec", "conversion", "strategy"]) == "Webhook")
            .cloned(),
    };
    let terminating = meta::condition_is_true(definition, "Terminating") || meta::is_terminating(definition);
    Ok(Kind {
        plural: name("plural"),
        singular: name("singular"),
        short: texts(definition, &["status", "acceptedNames", "shortNames"]),
        categories: texts(definition, &["status", "acceptedNames", "categories"]),
        kind: name("kind"),
        list_kind: name("listKind"),
        scope: if definition.str_at(&["spec", "scope"]) == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: if terminating { VERBS_AT_THE_END.to_vec() } else { VERBS.to_vec() },
        subresources: subresources(has_status, scale.is_some()),
        selectable: selectable(version),
        columns: columns(version),
        generation: Generation::Content,
        schema: Arc::new(schema),
        ty,
        graceful: false,
        orphans_by_default: false,
        create_on_update: false,
        unconditional_update: false,
        returns_deleted: false,
        status_keeps_labels: false,
        status_keeps_metadata: true,
        late_generation: false,
        status_on_create: false,
        storage: version.bool_at(&["storage"]) == Some(true),
        listless: false,
        deprecation: deprecation(version, &group, &version_name, &name("kind")),
        features: crate::Features::default(),
        custom: Some(Arc::new(custom)),
        group,
        version: version_name,
    })
}

/// `example.com`, `v1` and `Foo` are `com.example.v1.Foo` in OpenAPI; see ToRESTFriendlyName.
fn openapi_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.split('.').rev().collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

fn deprecation(version: &Value, group: &str, name: &str, kind: &str) -> Option<Deprecation> {
    let warning = match version.str_at(&["deprecationWarning"]) {
        "" => format!("{group}/{name} {kind} is deprecated").into(),
        text => text.into(),
    };
    (version.bool_at(&["deprecated"]) == Some(true)).then_some(Deprecation { warning, removed_release: "" })
}

fn subresources(status: bool, scale: bool) -> Vec<Subresource> {
    let verbs = vec!["get", "patch", "update"];
    let status = status.then(|| Subresource { name: "status", verbs: verbs.clone(), kind: None });
    let scale = scale.then(|| Subresource { name: "scale", verbs: verbs.clone(), kind: Some(("autoscaling", "v1", "Scale")) });
    status.into_iter().chain(scale).collect()
}

/// The fields of a path such as `.spec.replicas`; none where it is not a simple one.
fn fields(path: &str) -> Option<Vec<Key>> {
    JsonPath::parse(path).ok()?.fields().filter(|f| !f.is_empty())
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let path = |name: &str| fields(scale.str_at(&[name]));
    ScalePaths {
        spec_replicas: path("specReplicasPath").unwrap_or_default(),
        status_replicas: path("statusReplicasPath").unwrap_or_default(),
        label_selector: path("labelSelectorPath"),
    }
}

fn selectable(version: &Value) -> Vec<Key> {
    let own = version.list_at(&["selectableFields"]).iter().filter_map(|f| fields(f.str_at(&["jsonPath"])));
    let own = own.map(|path| Key::from(path.join(".")));
    [Key::Static("metadata.name"), Key::Static("metadata.namespace")].into_iter().chain(own).collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let name = Column {
        name: "Name".into(),
        ty: Key::Static("string"),
        format: Key::Static("name"),
        description: Key::Static(""),
        priority: 0,
        cell: Cell::Path(vec!["metadata", "name"], None),
    };
    let age =
        Column { name: "Age".into(), ty: Key::Static("date"), format: Key::Static(""), cell: Cell::Age(Age::Relative), ..name.clone() };
    let own: Vec<Column> = version.list_at(&["additionalPrinterColumns"]).iter().filter_map(column).collect();
    let rest = if own.is_empty() { vec![age] } else { own };
    std::iter::once(name).chain(rest).collect()
}

fn column(written: &Value) -> Option<Column> {
    let path = written.str_at(&["jsonPath"]);
    let creation = written.str_at(&["type"]) == "date" && path == ".metadata.creationTimestamp";
    Some(Column {
        name: written.str_at(&["name"]).into(),
        ty: written.str_at(&["type"]).into(),
        format: written.str_at(&["format"]).into(),
        description: written.str_at(&["description"]).into(),
        priority: written.int_at(&["priority"]).unwrap_or(0),
        cell: if creation { Cell::Age(Age::Relative) } else { Cell::Found(JsonPath::parse(path).ok()?) },
    })
}
