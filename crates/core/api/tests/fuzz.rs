//! What reads the bytes of anybody in `fram-machinery`, with the kinds of this crate as descriptions: the encodings, patches,
//! apply, selectors, paths, quantities and times. What can be written again is read back the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::OnceLock;

use fram_api::Api;
use fram_fuzz::{Pieces, Target};
use fram_machinery::jsonpath::JsonPath;
use fram_machinery::labels::{FieldSelector, Selector};
use fram_machinery::managed::{self, FieldSet, Manager, Operation};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Schema, TypeId, Value, cbor, json, normalize, object, patch, protobuf, structural, yaml};

fn pod() -> (&'static Schema, TypeId) {
    static API: OnceLock<Api> = OnceLock::new();
    let kind = API.get_or_init(|| Api::builtin().unwrap()).kind("", "v1", "Pod").unwrap();
    (&kind.schema, kind.ty)
}

/// An object as a request that carries it makes it.
fn decoded(text: &[u8]) -> Option<Value> {
    let (schema, ty) = pod();
    let mut value = normalize::decode(schema, ty, json::from_slice(text).ok()?).ok()?.value;
    value.set(&["apiVersion"], "v1");
    value.set(&["kind"], "Pod");
    Some(value)
}

fn json(input: &[u8]) {
    let Ok(parsed) = json::parse(input) else { return };
    // A float without a fraction is written as an integer, as Go does it, and read as one.
    let written = json::to_vec(&parsed.value);
    assert_eq!(json::to_vec(&json::from_slice(&written).unwrap()), written);
}

fn yaml(input: &[u8]) {
    let text = Pieces::of(input).text();
    let _ = (yaml::lenient(text), yaml::documents(text));
    let Ok(value) = yaml::from_str(text) else { return };
    let again = yaml::from_str(&yaml::to_string(&value).unwrap()).unwrap();
    assert_eq!(json::to_string(&again), json::to_string(&value));
}

fn cbor(input: &[u8]) {
    let Ok(value) = cbor::from_slice(input) else { return };
    assert_eq!(cbor::from_slice(&cbor::to_vec(&value)).unwrap(), value);
}

fn protobuf(input: &[u8]) {
    let (schema, ty) = pod();
    let raw = protobuf::open(input).map_or(input, |envelope| envelope.raw);
    let Ok(value) = protobuf::decode(schema, ty, raw) else { return };
    // What Go writes though nothing was given for it is there from the second time on.
    let encoded = protobuf::encode(schema, ty, &value);
    let back = protobuf::decode(schema, ty, &encoded).unwrap();
    assert_eq!(protobuf::encode(schema, ty, &back), encoded);
}

/// What is stored is what was sent, whatever the encoding.
fn decode(input: &[u8]) {
    let Some(value) = decoded(input) else { return };
    let (schema, ty) = pod();
    for (decode, stored) in [(normalize::decode as fn(_, _, _) -> _, false), (normalize::decode_stored, true)] {
        let raw = json::from_slice(input).unwrap();
        for value in [raw, value.clone()] {
            let unchanged = decode(schema, ty, value.clone()).is_ok_and(|d: normalize::Decoded| d.unknown.is_empty() && d.value == value);
            assert_eq!(normalize::is_formed(schema, ty, &value, stored), unchanged);
        }
    }
    let mut filled = value.clone();
    normalize::apply_defaults(schema, ty, &mut filled);
    let encoded = protobuf::encode(schema, ty, &value);
    let back = protobuf::decode(schema, ty, &encoded).unwrap();
    assert_eq!(protobuf::encode(schema, ty, &back), encoded);
}

fn label_selector(input: &[u8]) {
    let mut pieces = Pieces::of(input);
    if let Ok(selector) = Selector::parse(pieces.text()) {
        selector.matches(&object!({ "a": "b", "x": "1" }));
    }
    if let Ok(selector) = json::from_slice(pieces.bytes()) {
        let _ = Selector::from_object(Some(&selector));
    }
}

fn field_selector(input: &[u8]) {
    if let Ok(selector) = FieldSelector::parse(Pieces::of(input).text()) {
        selector.matches_with(|path| path.into());
    }
}

fn pair(input: &[u8]) -> Option<(Value, Value)> {
    let mut pieces = Pieces::of(input);
    Some((json::from_slice(pieces.bytes()).ok()?, json::from_slice(pieces.bytes()).ok()?))
}

fn json_patch(input: &[u8]) {
    if let Some((target, change)) = pair(input) {
        let _ = patch::json(&target, &change);
    }
}

fn merge_patch(input: &[u8]) {
    let Some((target, change)) = pair(input) else { return };
    let once = patch::merge(&target, &change);
    assert_eq!(patch::merge(&once, &change), once);
}

fn strategic_patch(input: &[u8]) {
    let mut pieces = Pieces::of(input);
    let (Some(target), Ok(change)) = (decoded(pieces.bytes()), json::from_slice(pieces.bytes())) else { return };
    let (schema, ty) = pod();
    let _ = patch::strategic(schema, ty, &target, &change);
}

fn apply(input: &[u8]) {
    let mut pieces = Pieces::of(input);
    let (Some(mut live), Some(config), Some(other)) = (decoded(pieces.bytes()), decoded(pieces.bytes()), decoded(pieces.bytes())) else {
        return;
    };
    let (schema, ty) = pod();
    let manager = |name: &str, operation| Manager { name: name.into(), operation, api_version: "v1".into(), subresource: String::new() };
    let now = "2026-01-01T00:00:00Z";
    managed::track(schema, ty, &object!({}), &mut live, &manager("first", Operation::Update), now);
    let one = manager("one", Operation::Apply);
    let put = |live: &Value, config: &Value, by: &Manager| managed::apply(schema, ty, live, config, by, true, true, now);
    let Ok(once) = put(&live, &config, &one) else { return };
    let _ = put(&once, &other, &manager("two", Operation::Apply));
    // Who applies the same again changes nothing.
    assert_eq!(put(&once, &config, &one).unwrap(), once);
}

fn managed_fields(input: &[u8]) {
    let Ok(value) = json::from_slice(input) else { return };
    let set = FieldSet::from_value(&value);
    assert_eq!(FieldSet::from_value(&set.to_value()), set);
    set.paths();
}

fn json_path(input: &[u8]) {
    let mut pieces = Pieces::of(input);
    let Ok(path) = JsonPath::parse(pieces.text()) else { return };
    if let Ok(object) = json::from_slice(pieces.bytes()) {
        let _ = (path.find(&object), path.fields());
    }
}

fn quantity(input: &[u8]) {
    let Ok(quantity) = Pieces::of(input).text().parse::<Quantity>() else { return };
    let written = quantity.to_string();
    assert_eq!(written.parse::<Quantity>().unwrap(), quantity, "{written}");
    let _ = (quantity.value(), quantity.milli_value(), quantity + quantity, Quantity::zero() - quantity);
}

fn time(input: &[u8]) {
    let text = Pieces::of(input).text();
    if let Some(nanos) = normalize::parse_duration(text) {
        assert_eq!(normalize::parse_duration(&normalize::format_duration(nanos)), Some(nanos), "{nanos}");
    }
    for format in ["date", "date-time", "duration", "uuid", "uri", "email", "hostname", "cidr", "mac", "isbn", "creditcard", "rgbcolor"] {
        structural::has_format(format, text);
    }
    let stamped = object!({ "metadata": { "creationTimestamp": text } });
    let _ = normalize::decode(pod().0, pod().1, stamped);
}

fn definition(input: &[u8]) {
    let mut pieces = Pieces::of(input);
    let (Ok(schema), Ok(mut object)) = (json::from_slice(pieces.bytes()), json::from_slice(pieces.bytes())) else { return };
    let _ = structural::schema_errors(&schema, "s");
    let structural = structural::Structural::read(&schema);
    structural.apply_defaults(&mut object);
    structural.validate(&object, None);
}

const POD: &[u8] = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"b":"c"},
    "creationTimestamp":"2026-01-02T03:04:05Z"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,
    "protocol":"TCP"}],"resources":{"limits":{"cpu":"100m"}},"env":[{"name":"x","value":"y"}]}],
    "tolerations":[{"key":"k","operator":"Exists"}],"nodeSelector":{"x":"y"}}}"#;

const JSON: &[u8] = br#"[1,-2.5e3,true,null,"\u00e9\n\ud83d\ude00",{"a":{},"a":[]}]"#;

const YAML: &[u8] = b"a: 1\nb: &x [c, 'd', \"e\"]\nf: *x\ng: |\n  text\nh: {i: ~, j: .nan, <<: {k: 0x10}}\nl:\n- !!str 1\n- ? a\n  : b\n";

const STRATEGIC: &[u8] = b"{\"spec\":{\"containers\":[{\"name\":\"a\"},{\"name\":\"b\"}]}}\0{\"spec\":{\"$retainKeys\":[\"containers\"],\
    \"containers\":[{\"name\":\"a\",\"$patch\":\"delete\"},{\"name\":\"c\",\"ports\":[{\"containerPort\":1}]}],\
    \"$setElementOrder/containers\":[{\"name\":\"c\"},{\"name\":\"b\"}]},\
    \"metadata\":{\"$deleteFromPrimitiveList/finalizers\":[\"x\"]}}";

const APPLY: &[u8] = b"{\"metadata\":{\"labels\":{\"a\":\"b\"}},\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"i\"}]}}\0\
    {\"metadata\":{\"labels\":{\"a\":\"c\"},\"finalizers\":[\"x\"]},\"spec\":{\"containers\":[{\"name\":\"a\",\"env\":[{\"name\":\"x\"}]},\
    {\"name\":\"b\"}]}}\0{\"metadata\":{\"labels\":{\"d\":\"e\"}}}";

const PATCH: &[u8] = b"{\"a\":[1,2],\"b\":{\"c\":1}}\0[{\"op\":\"add\",\"path\":\"/a/-\",\"value\":3},\
    {\"op\":\"move\",\"from\":\"/b/c\",\"path\":\"/d~1e~0\"},{\"op\":\"test\",\"path\":\"/a/0\",\"value\":1},\
    {\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/f\"},{\"op\":\"remove\",\"path\":\"/b\"},{\"op\":\"replace\",\"path\":\"\",\"value\":{}}]";

const LABELS: &[u8] = b"a=b,c!=d,e in (f, g),h notin (i),j,!k,l>1,m<2\0{\"matchLabels\":{\"a\":\"b\"},\
    \"matchExpressions\":[{\"key\":\"c\",\"operator\":\"In\",\"values\":[\"d\"]}]}";

const FIELDS: &[u8] = br#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"k:{\"name\":\"a\"}":{".":{}},"v:\"x\"":{},"i:0":{}}}"#;

const DEFINITION: &[u8] = b"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^a+$\",\"default\":\"aa\",\
    \"maxLength\":5},\"b\":{\"type\":\"array\",\"items\":{\"x-kubernetes-int-or-string\":true},\"x-kubernetes-list-type\":\"set\"},\
    \"c\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\",\"minimum\":1}}},\"required\":[\"a\"],\
    \"not\":{\"anyOf\":[{\"required\":[\"b\"]}]}}\0{\"a\":\"b\",\"b\":[1,\"1\"],\"c\":{\"d\":0}}";

#[test]
fn the_kept_inputs_hold() {
    let target = |name, run, seeds| Target { name, seeds, memory: 400, run };
    let wire: &[&[u8]] = &[
        b"\x0a\x0f\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\x00\x12\x0b\x12\x09\x0a\x01c\x12\x01i\x1a\x01x",
        b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x05\x0a\x03\x0a\x01a",
    ];
    let binary: &[&[u8]] = &[
        b"\xd9\xd9\xf7\xa2\x41a\x01\x41b\x82\xf5\xf6",
        b"\x9f\x18\x64\x39\x01\xf3\xfb\x3f\xf8\0\0\0\0\0\0\x5f\x41a\x41b\xff\xd6\x42ab\xff",
    ];
    let paths: &[&[u8]] = &[
        b".status.conditions[?(@.type==\"Ready\")].status\0{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}",
        b"$..a[1:-1:2]['b','c'][*].d[-1]\0{\"a\":[[1]]}",
    ];
    let times: &[&[u8]] = &[b"1h2m3.5s", b"-1.5us", b"2026-01-02T03:04:05.000006+01:00", b"a@b.c", b"978-3-16-148410-0", b"rgb(1, 2, 3)"];
    let targets = [
        target("json", json, &[POD, JSON]),
        target("yaml", yaml, &[YAML]),
        target("cbor", cbor, binary),
        target("protobuf", protobuf, wire),
        target("decode", decode, &[POD]),
        target("label_selector", label_selector, &[LABELS]),
        target("field_selector", field_selector, &[b"metadata.name=a,spec.nodeName!=b,c==d\\,e\\=f"]),
        target("json_patch", json_patch, &[PATCH]),
        target("merge_patch", merge_patch, &[b"{\"a\":{\"b\":1,\"c\":[1]}}\0{\"a\":{\"b\":null,\"d\":{\"e\":null}}}"]),
        target("strategic_patch", strategic_patch, &[STRATEGIC]),
        target("apply", apply, &[APPLY]),
        target("managed_fields", managed_fields, &[FIELDS]),
        target("json_path", json_path, paths),
        target("quantity", quantity, &[b"100m", b"1.5Gi", b"-12e6", b"0.000000001n", b"9223372036854775807E"]),
        target("time", time, times),
        target("definition", definition, &[DEFINITION]),
    ];
    fram_fuzz::check(env!("CARGO_MANIFEST_DIR"), &targets);
}
