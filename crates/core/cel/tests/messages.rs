//! Messages and lazy variables, as admission policies use them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::cell::Cell;

use fram_cel::{Budget, Environment, EvalError, Lazy, Program, Value};
use fram_machinery::{Value as Tree, object};

fn tree(text: &str) -> Tree {
    let program = Program::compile(text, &Environment::kubernetes().mutations()).unwrap();
    Tree::from(&program.evaluate(&[], &mut Budget::new(1000)).unwrap())
}

#[test]
fn a_message_is_made_of_its_fields() {
    for (text, expect) in [
        ("Object{}", object!({})),
        ("Object{spec: Object.spec{replicas: 1 + 1}}", object!({ "spec": { "replicas": 2 } })),
        ("Object{?a: optional.none(), ?b: optional.of('x'),}", object!({ "b": "x" })),
        ("Object{metadata: Object.metadata{labels: {'a': 'b'}}}", object!({ "metadata": { "labels": { "a": "b" } } })),
        ("[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('k/8~s')}]", object!([{ "op": "add", "path": "/a/k~18~0s" }])),
        ("Object{a: 1}.a == 1 && has(Object{a: 1}.a) && !has(Object{}.a)", Tree::Bool(true)),
        ("Object{a: 1} == dyn(Object.b{a: 1})", Tree::Bool(false)),
    ] {
        assert_eq!(tree(text), expect, "{text}");
    }
}

#[test]
fn messages_are_refused_where_none_may_be_made() {
    for text in ["Object{}", "Objects{a: 1}"] {
        assert!(Program::compile(text, &Environment::kubernetes()).unwrap_err().to_string().contains("undeclared reference"), "{text}");
    }
    for text in ["Object{a: 1, a: 2}", "Object{a}", "f(1){a: 1}"] {
        assert!(Program::compile(text, &Environment::kubernetes().mutations()).is_err(), "{text}");
    }
}

struct Counted(Cell<u32>);

impl Lazy for Counted {
    fn value(&self, name: &str, _: &mut Budget) -> Option<Result<Value, EvalError>> {
        self.0.set(self.0.get() + 1);
        match name {
            "one" => Some(Ok(Value::Int(1))),
            "bad" => Some(Err(EvalError::DivideByZero)),
            _ => None,
        }
    }
}

#[test]
fn a_lazy_variable_is_computed_only_where_it_is_reached() {
    for (text, expect, asked) in [
        ("true || variables.bad", Ok(Value::Bool(true)), 0),
        ("variables.one == 1", Ok(Value::Bool(true)), 1),
        ("variables.bad == 1", Err(EvalError::DivideByZero), 1),
        ("has(variables.one) && !has(variables.none)", Ok(Value::Bool(true)), 2),
        ("[{'bad': 1}].all(variables, variables.bad == 1)", Ok(Value::Bool(true)), 0),
    ] {
        let lazy = Counted(Cell::new(0));
        let program = Program::compile(text, &Environment::kubernetes().dynamic(&["variables"])).unwrap();
        let value = program.evaluate_lazily(&[("variables", Value::Null)], &lazy, &mut Budget::new(1000));
        assert_eq!((value, lazy.0.get()), (expect, asked), "{text}");
    }
}
