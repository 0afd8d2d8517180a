//! Expressions of anybody: parsed, checked, estimated and evaluated within their limits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::Arc;

use fram_cel::{Budget, Declared, Environment, Program, Value};
use fram_fuzz::{Pieces, Target};
use fram_machinery::{json, object};

/// A type that is checked is the type of what evaluation gives.
fn expression(input: &[u8]) {
    let text = Pieces::of(input).text();
    let this = object!({ "i": 1, "s": "a", "l": ["x", "y"], "m": { "k": 2 } });
    let variables = [("self", Value::from(&this))];
    if let Ok(program) = Program::compile(text, &Environment::complete().dynamic(&["self"]).mutations()) {
        let _ = program.evaluate(&variables, &mut Budget::new(100_000));
        program.mentions("self");
    }
    let schema = br#"{"type":"object","properties":{"i":{"type":"integer"},"s":{"type":"string"},
        "l":{"type":"array","items":{"type":"string"}},"m":{"type":"object","additionalProperties":{"type":"integer"}}}}"#;
    let declared = Arc::new(Declared::read(&json::from_slice(schema).unwrap(), "selfType", false).unwrap());
    let environment = Environment::kubernetes().variable_of("self", declared.clone());
    let Ok((program, _)) = Program::estimate(text, &environment, &declared) else { return };
    let result = program.result().to_string();
    if let Ok(value) = program.evaluate(&variables, &mut Budget::new(100_000))
        && ["bool", "int", "uint", "double", "string", "bytes"].contains(&&*result)
    {
        assert_eq!(value.type_name(), result, "{text}");
    }
}

fn schema(input: &[u8]) {
    if let Ok(schema) = json::from_slice(input) {
        Declared::read(&schema, "t", true).map(|declared| declared.cardinality());
    }
}

#[test]
fn the_kept_inputs_hold() {
    let seeds: &[&[u8]] = &[
        b"self.i + 1 > size(self.s) && !has(self.m.k) || self.l.all(x, x.startsWith('a')) ? self.?s.orValue('') == r'\\d' : true",
        b"self.l.map(x, x + 'y').filter(x, x != b'\\x01').exists_one(x, x in ['a', \"\"\"b\"\"\"]) // comment",
        b"self.m.transformMap(k, v, v > 0, k + string(v)) == {'a': 1u, 2: [3.5e3, ?optional.none()]}",
        b"cel.bind(x, [1, 2, 3], x.sortBy(e, -e)[0] == math.greatest(x)) && Object{spec: Object.spec{a: 1}}.spec.a == 1",
        b"'%s %d %.2f %x'.format(['a', 1, 2.0, b'\\xff']) + 'a,b'.split(',', 1).join('-').replace('a', 'b').substring(1, 2)",
        b"duration('1h').getHours() + timestamp('2020-01-01T00:00:00Z').getMonth('+01:00') - int('5') * -9223372036854775808 % 3",
        b"quantity('1Gi').add(5).isLessThan(quantity('2')) && url('http://h:1/p?q=1').getQuery() != {} && semver('1.0.0-a.1').major() == 1",
        b"ip('::1').family() == 6 && cidr('10.0.0.0/8').containsIP('10.1.1.1') && format.named('uuid').value().validate('x').hasValue()",
        b"self.l.flatten(2).slice(0, 1).distinct().sort().reverse().first().optMap(v, v + 'x') == self.l[?9] && sets.contains([1], [1])",
        b"'aab'.matches('^(a+)+$') || 'x'.findAll('[a-z]', 1).isSorted() || lists.range(5).sum() == 10 && type(1) == int",
    ];
    let schemas: &[&[u8]] =
        &[br#"{"type":"object","properties":{"a":{"type":"array","maxItems":3,"items":{"type":"string","format":"date"}},
        "b-c":{"x-kubernetes-int-or-string":true},"d":{"type":"object","additionalProperties":{"type":"number"}}},"required":["a"]}"#];
    let targets = [
        Target { name: "expression", seeds, memory: 4000, run: expression },
        Target { name: "schema", seeds: schemas, memory: 400, run: schema },
    ];
    fram_fuzz::check(env!("CARGO_MANIFEST_DIR"), &targets);
}
