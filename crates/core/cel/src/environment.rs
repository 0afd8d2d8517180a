//! What expressions may use: variables, libraries, messages.

use std::sync::Arc;

use crate::declarations::{self, Function, Library};
use crate::schema::Declared;
use crate::types::Type;

/// The libraries that Kubernetes has in every expression; see upstream's MustBaseEnvSet.
const KUBERNETES: &[Library] = &[Library::Core, Library::Optional, Library::Strings, Library::Sets, Library::Lists, Library::Kubernetes];
const COMPLETE: &[Library] = &[
    Library::Core,
    Library::Optional,
    Library::Strings,
    Library::LaterStrings,
    Library::Sets,
    Library::Lists,
    Library::Kubernetes,
    Library::Math,
    Library::Encoders,
    Library::Bindings,
];

#[derive(Debug, Clone)]
pub struct Environment {
    libraries: Vec<Library>,
    variables: Vec<(String, Arc<Declared>)>,
    functions: Arc<Vec<(String, Function)>>,
    /// With the names of messages below them, where those may be made as well.
    messages: Vec<(String, Type)>,
    /// Whether the elements of a literal may be of different types.
    mixes: bool,
}

impl Environment {
    /// What every expression of Kubernetes' API may use.
    pub fn kubernetes() -> Self {
        Self { libraries: KUBERNETES.to_vec(), variables: Vec::new(), functions: Arc::default(), messages: Vec::new(), mixes: false }
    }

    /// Everything that is known here, as cel-spec's cases expect it.
    pub fn complete() -> Self {
        Self { libraries: COMPLETE.to_vec(), mixes: true, ..Self::kubernetes() }
    }

    /// Where nothing is known of variables whose types were known when an expression was accepted, its literals may look mixed.
    pub fn accepted(self) -> Self {
        Self { mixes: true, ..self }
    }

    pub fn variable_of(mut self, name: &str, declared: Arc<Declared>) -> Self {
        self.variables.push((name.into(), declared));
        self
    }

    pub fn typed(self, name: &str, ty: Type) -> Self {
        self.variable_of(name, Arc::new(Declared::simple(ty)))
    }

    /// Variables of which nothing is known.
    pub fn dynamic(self, names: &[&str]) -> Self {
        names.iter().fold(self, |environment, name| environment.typed(name, Type::Dyn))
    }

    /// Functions in the form `name: (int, A) -> list(A) | string.() -> bool`, one per line.
    pub fn functions(mut self, text: &str) -> Self {
        self.functions = Arc::new(declarations::read_functions(text));
        self
    }

    /// The messages that mutations make: `Object` and what is named below it, `JSONPatch`.
    pub fn mutations(mut self) -> Self {
        self.libraries.push(Library::JsonPatch);
        self.messages.push(("Object".into(), Type::any_object("Object")));
        let text = || Declared::simple(Type::Text);
        let patch = vec![("op", text()), ("path", text()), ("from", text()), ("value", Declared::simple(Type::Dyn))];
        self.messages.push(("JSONPatch".into(), Declared::object("JSONPatch", patch).ty));
        self
    }

    /// `cel.bind` as well.
    pub fn bindings(mut self) -> Self {
        self.libraries.push(Library::Bindings);
        self
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Arc<Declared>> {
        self.variables.iter().rev().find(|(n, _)| n == name).map(|(_, declared)| declared)
    }

    pub(crate) fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|(n, _)| n == name).map(|(_, function)| function)
    }

    pub(crate) fn has(&self, library: Library) -> bool {
        self.libraries.contains(&library)
    }

    pub(crate) fn mixes(&self) -> bool {
        self.mixes
    }

    /// The type of a message that may be made.
    pub(crate) fn message(&self, name: &str) -> Option<Type> {
        let first = name.split('.').next().unwrap_or_default();
        let (_, ty) = self.messages.iter().find(|(n, _)| n == first)?;
        if name == first {
            return Some(ty.clone());
        }
        // Messages below one whose fields are not known are not known either.
        matches!(ty, Type::Object(object) if matches!(object.fields, crate::types::Fields::Any)).then(|| Type::any_object(name))
    }
}
