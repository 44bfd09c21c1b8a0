//! The contract as files: JSON Schemas of everything that goes in or comes out, made from the types that read and write it,
//! and the OpenAPI document of the routes.
//!
//! The law: `schemas/` holds exactly what [`files`] gives (`testing/contract/schemas.rs`; `testing/schemas` rewrites it),
//! and the service serves those files. Made at build time and committed, not at run time: a reader of the repository sees a
//! change of the contract as a change of a file.

mod paths;

use super::allocations::ActorAnswer;
use super::compute::{ComputeRequest, Running};
use super::problem::Problem;
use super::seal::Stored;
use super::{Version, admin::Readiness};
use crate::pipeline::AnswerBody;
use crate::proof::Proof;
use crate::why::Why;
use rewarder_emit::Delivered;
use rewarder_model::{Attestation, Intent, Manifest, Policy};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

pub use paths::REASONS;

/// What `/openapi.json` answers.
pub const OPENAPI: &str = include_str!("../../../schemas/openapi.json");
/// What `/schema/compute.json` answers.
pub const COMPUTE: &str = include_str!("../../../schemas/compute.json");

/// Where the OpenAPI document has its schemas.
const COMPONENTS: &str = "/components/schemas";

/// Which half of serde a schema describes: what is read, or what is written.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

/// A document of its own.
struct Document {
    file: &'static str,
    title: &'static str,
    way: Way,
    make: fn(&mut SchemaGenerator) -> Schema,
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What has a file of its own under `schemas/`; the OpenAPI document has them all.
const DOCUMENTS: [Document; 12] = [
    Document { file: "compute.json", title: "Compute request", way: Way::In, make: of::<ComputeRequest> },
    Document {
        file: "compute-answer.json",
        title: "Compute answer",
        way: Way::Out,
        make: of::<AnswerBody<'static>>,
    },
    Document { file: "policy.json", title: "rewarder.policy.v1", way: Way::In, make: of::<Policy> },
    Document { file: "manifest.json", title: "rewarder.manifest.v1", way: Way::Out, make: of::<Manifest> },
    Document { file: "attestation.json", title: "Attestation", way: Way::Out, make: of::<Attestation> },
    Document { file: "delivery.json", title: "rewarder.delivery.v1", way: Way::Out, make: Delivered::schema },
    Document { file: "proof.json", title: "Proof of one payout", way: Way::Out, make: of::<Proof> },
    Document { file: "why.json", title: "Explanation of one payout", way: Way::Out, make: of::<Why> },
    Document { file: "actor.json", title: "One actor's answer", way: Way::Out, make: of::<ActorAnswer> },
    Document {
        file: "problem.json",
        title: "Problem (RFC 9457)",
        way: Way::Out,
        make: of::<Problem<'static>>,
    },
    Document { file: "intent.json", title: "Intent for the ledger", way: Way::Out, make: of::<Intent> },
    Document { file: "readiness.json", title: "Readiness", way: Way::Out, make: of::<Readiness> },
];

fn generator(way: Way, definitions: &'static str) -> SchemaGenerator {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = definitions.into();
    // The document says which dialect it is in; inside it nothing has to.
    settings.meta_schema = None;
    match way {
        Way::In => settings.for_deserialize(),
        Way::Out => settings.for_serialize(),
    }
    .into_generator()
}

/// Every file under `schemas/`: its name, and what it holds.
pub fn files() -> Vec<(&'static str, Value)> {
    let mut files: Vec<_> =
        DOCUMENTS.iter().map(|document| (document.file, document.stand_alone())).collect();
    files.push(("openapi.json", openapi()));
    files
}

impl Document {
    fn stand_alone(&self) -> Value {
        let mut generator = generator(self.way, "/$defs");
        let made = Value::from((self.make)(&mut generator));
        let mut definitions = generator.take_definitions(true);
        // The document's own schema stands at the top, not among the definitions.
        let own = made["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")).map(str::to_owned);
        let mut body = match own {
            Some(name) => definitions.remove(&name).unwrap_or(made),
            None => made,
        };
        let name = self.file.trim_end_matches(".json");
        body["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        body["$id"] = json!(format!("urn:svc-rewarder:schema:{name}"));
        body["title"] = json!(self.title);
        if !definitions.is_empty() {
            body["$defs"] = Value::Object(definitions);
        }
        tidy(&mut body, matches!(self.way, Way::Out));
        body
    }
}

/// The routes, with every schema that they name.
fn openapi() -> Value {
    let mut components = serde_json::Map::new();
    for way in [Way::In, Way::Out] {
        let mut generator = generator(way, COMPONENTS);
        for document in
            DOCUMENTS.iter().filter(|document| matches!(document.way, Way::In) == matches!(way, Way::In))
        {
            (document.make)(&mut generator);
        }
        if matches!(way, Way::Out) {
            generator.subschema_for::<Running<'static>>();
            generator.subschema_for::<Stored>();
            generator.subschema_for::<Version>();
        }
        for (name, mut schema) in generator.take_definitions(true) {
            tidy(&mut schema, matches!(way, Way::Out));
            components.insert(name, schema);
        }
    }
    components.sort_keys();
    paths::document(components)
}

/// Whether a schema lets null through and something else besides; the something else.
fn without_null(schema: &Value) -> Option<Value> {
    let mut schema = schema.clone();
    if let Some(kinds) = schema["type"].as_array() {
        let rest: Vec<Value> = kinds.iter().filter(|kind| **kind != "null").cloned().collect();
        let [only] = &rest[..] else { return None };
        schema["type"] = only.clone();
        return Some(schema);
    }
    let any = schema["anyOf"].as_array()?.clone();
    let [only] = &any.iter().filter(|one| one["type"] != "null").collect::<Vec<_>>()[..] else { return None };
    let (object, only) = (schema.as_object_mut()?, only.as_object()?);
    object.remove("anyOf");
    object.extend(only.clone());
    Some(schema)
}

/// Two things that a derived schema cannot know: we leave out what is not there and never write null for it, and the
/// `format` of an integer is a Rust type's name, which means nothing outside.
fn tidy(schema: &mut Value, written: bool) {
    match schema {
        Value::Array(all) => all.iter_mut().for_each(|one| tidy(one, written)),
        Value::Object(object) => {
            if object.get("format").is_some_and(|format| {
                matches!(format.as_str(), Some("uint64" | "uint32" | "uint16" | "uint" | "double"))
            }) {
                object.remove("format");
            }
            let required: Vec<Value> =
                object.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            if let (true, Some(properties)) =
                (written, object.get_mut("properties").and_then(Value::as_object_mut))
            {
                for (name, property) in properties {
                    if !required.iter().any(|one| one == name)
                        && let Some(strict) = without_null(property)
                    {
                        *property = strict;
                    }
                }
            }
            object.values_mut().for_each(|one| tidy(one, written));
        }
        _ => {}
    }
}
