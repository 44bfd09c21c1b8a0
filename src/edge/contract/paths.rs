//! The OpenAPI document, but for the schemas: one entry for each of [`ROUTES`], with every answer that it can give.
//!
//! Written by hand, since no type says which refusals a route has. A test holds the list against the routes and against the
//! table of reasons; `testing/contract/run` asks a running service for answers that are not here.

use super::super::ROUTES;
use super::super::allocations::REPRESENTATIONS;
use super::super::seal::SNAPSHOT_TYPES;
use http::Method;
use rewarder_admit::Scope;
use rewarder_model::Reason::{self, *};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Of every route: the host, the method, a fault of ours.
const ANYWHERE: &[Reason] = &[Schema, Method, Internal];
/// Of every route that asks for a capability.
const AT_THE_DOOR: &[Reason] = &[Unauth, Scope, Caveat, Tenant, TenantRate, OverCapacity, CapTimeout];
/// Of every route with a body.
const BODY: &[Reason] = &[RequestTimeout, BodyTooBig, MediaType];
/// Of every job; its epoch answers with them until it has a run.
const JOB: &[Reason] = &[
    Tenant,
    Caveat,
    InputsNotFound,
    PolicyNotFound,
    EpochConflict,
    Overflow,
    OverBudget,
    CidMismatch,
    SnapshotInvalid,
    EpochMismatch,
    PolicyInvalid,
    UnknownCategory,
    Invariant,
    LedgerRefused,
    QueueFull,
    Draining,
    SpoolFull,
    Latched,
    StoreFull,
];

/// Which refusals each route of [`ROUTES`] has, in its order.
pub const REASONS: &[&[&[Reason]]] = &[
    &[ANYWHERE, AT_THE_DOOR, BODY, &[CidMismatch, StoreFull]],
    &[ANYWHERE, AT_THE_DOOR, BODY, &[DecompressRatio, CidMismatch, PolicyConflict, StoreFull]],
    &[ANYWHERE, AT_THE_DOOR, BODY, &[DecompressRatio], JOB],
    &[ANYWHERE, AT_THE_DOOR, JOB, &[EpochNotFound]],
    &[ANYWHERE, AT_THE_DOOR, JOB, &[EpochNotFound, NotAcceptable]],
    &[ANYWHERE, AT_THE_DOOR, JOB, &[EpochNotFound]],
    &[ANYWHERE, AT_THE_DOOR, &[PolicyNotFound]],
    &[ANYWHERE],
    &[ANYWHERE],
    &[ANYWHERE],
];

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn content(media_type: &str, schema: Value) -> Value {
    json!({ media_type: { "schema": schema } })
}

fn bytes() -> Value {
    json!({ "type": "string", "format": "binary" })
}

/// A body that is stored as it is. JSON is not bound to [`rewarder_model::Policy`]: storing does not judge, and what is no policy
/// is refused when it is used.
fn stored_as(media_type: &str) -> Value {
    if media_type == "application/json" {
        return json!({ "description": "a rewarder.policy.v1 (`Policy`)" });
    }
    bytes()
}

fn path_parameter(name: &str) -> Value {
    let schema = match name {
        "cid" => reference("Cid"),
        "epoch_id" => reference("EpochId"),
        "policy_id" => reference("PolicyId"),
        _ => json!({
            "type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
            "description": "percent-encoded: at most 256 bytes of UTF-8 without control characters",
        }),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

/// Of one route: its name for code, its summary, what else it takes, and its answers that are no refusal.
struct Told {
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<(u16, &'static str, Option<Value>)>,
}

fn header(name: &str, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": "header", "required": false, "description": description, "schema": schema })
}

fn told(method: &http::Method, path: &str) -> Told {
    let running = || json!({ "oneOf": [reference("Running"), reference("AnswerBody")] });
    let pending = || {
        (
            202,
            "the job runs; `Retry-After` says when to ask again",
            Some(content("application/json", reference("Pending"))),
        )
    };
    let none_match =
        || header("If-None-Match", json!({ "type": "string" }), "answered with 304 if the bytes are these");
    let not_modified = || (304, "the caller has these bytes", None);
    let answer = |id, summary, name: &str| Told {
        id,
        summary,
        parameters: vec![],
        body: None,
        answers: vec![(200, "the document", Some(content("application/json", reference(name))))],
    };
    let stored = |id, summary, types: &[&str]| Told {
        id,
        summary,
        parameters: vec![],
        body: Some(json!({
            "required": true,
            "content": types.iter().map(|name| ((*name).to_owned(), json!({ "schema": stored_as(name) }))).collect::<Map<_, _>>(),
        })),
        answers: vec![
            (201, "stored", Some(content("application/json", reference("Stored")))),
            (200, "was stored before", Some(content("application/json", reference("Stored")))),
        ],
    };
    match (method, path) {
        (&Method::PUT, "/rewarder/snapshots/{cid}") => {
            stored("storeSnapshot", "Store a sealed snapshot", SNAPSHOT_TYPES)
        }
        (&Method::PUT, "/rewarder/policies/{cid}") => stored(
            "storePolicy",
            "Store a policy and bind its id",
            &["application/json", "application/octet-stream"],
        ),
        (&Method::POST, "/rewarder/epochs/{epoch_id}/compute") => Told {
            id: "compute",
            summary: "Compute an epoch and hand its payout to the ledger",
            parameters: vec![
                json!({
                    "name": "dry_run", "in": "query", "required": false, "schema": { "type": "boolean" },
                    "description": "compute, and pay nobody",
                }),
                header("Prefer", json!({ "type": "string" }), "`respond-async` is answered with 202 at once"),
            ],
            body: Some(
                json!({ "required": true, "content": content("application/json", reference("ComputeRequest")) }),
            ),
            answers: vec![
                (200, "done", Some(content("application/json", reference("AnswerBody")))),
                (
                    202,
                    "still running, or computed and held in quarantine for a later delivery; `Location` says where to look",
                    Some(content("application/json", running())),
                ),
            ],
        },
        (_, "/rewarder/epochs/{epoch_id}") => Told {
            parameters: vec![none_match()],
            answers: vec![
                (200, "what the run left behind", Some(content("application/json", reference("Epoch")))),
                pending(),
                not_modified(),
            ],
            ..answer("epoch", "Manifest, attestation and delivery of an epoch's run", "Epoch")
        },
        (_, "/rewarder/epochs/{epoch_id}/allocations") => Told {
            parameters: vec![none_match()],
            answers: vec![
                (
                    200,
                    "all payouts, in the form that `Accept` asks for",
                    Some(Value::Object(
                        REPRESENTATIONS
                            .iter()
                            .map(|(name, _)| {
                                let text = name.starts_with("text/") || name.ends_with("ndjson");
                                let schema = if text { json!({ "type": "string" }) } else { bytes() };
                                ((*name).to_owned(), json!({ "schema": schema }))
                            })
                            .collect(),
                    )),
                ),
                pending(),
                not_modified(),
            ],
            ..answer("allocations", "Every payout of an epoch", "Epoch")
        },
        (_, "/rewarder/epochs/{epoch_id}/allocations/{actor}") => Told {
            answers: vec![
                (
                    200,
                    "the payout, why it is that, and its proof; also of a zero",
                    Some(content("application/json", reference("ActorAnswer"))),
                ),
                pending(),
            ],
            ..answer("actor", "One actor's payout, explained and proved", "ActorAnswer")
        },
        (_, "/rewarder/policy/{policy_id}") => Told {
            parameters: vec![none_match()],
            answers: vec![
                (
                    200,
                    "the stored document, byte for byte",
                    Some(content("application/json", reference("Policy"))),
                ),
                not_modified(),
            ],
            ..answer("policy", "A stored policy", "Policy")
        },
        (_, "/version") => answer("version", "What this program is", "Version"),
        (_, "/openapi.json") => Told {
            answers: vec![(
                200,
                "this document",
                Some(content("application/json", json!({ "type": "object" }))),
            )],
            ..answer("openapi", "This document", "Version")
        },
        _ => Told {
            answers: vec![(
                200,
                "a JSON Schema",
                Some(content("application/schema+json", json!({ "type": "object" }))),
            )],
            ..answer("computeSchema", "The schema of a compute request", "Version")
        },
    }
}

/// Refusals of one status, as one response.
fn refusals(reasons: &[Reason]) -> Value {
    let words: Vec<String> =
        reasons.iter().map(|reason| format!("`{reason}` ({})", reason.title())).collect();
    let mut headers = json!({ "X-Corr-ID": { "$ref": "#/components/headers/CorrId" } });
    if reasons.iter().any(|reason| reason.is_retryable()) {
        headers["Retry-After"] = json!({ "description": "seconds", "required": true, "schema": { "type": "integer", "minimum": 1 } });
    }
    json!({
        "description": words.join(", "),
        "headers": headers,
        "content": content("application/problem+json", reference("Problem")),
    })
}

fn operation(told: Told, path: &str, scope: Option<Scope>, lists: &[&[Reason]]) -> Value {
    let mut responses = Map::new();
    for (status, description, content) in told.answers {
        let mut response = json!({
            "description": description,
            "headers": { "X-Corr-ID": { "$ref": "#/components/headers/CorrId" } },
        });
        if let Some(content) = content {
            response["content"] = content;
        }
        responses.insert(status.to_string(), response);
    }
    let mut by_status = BTreeMap::<u16, Vec<Reason>>::new();
    for reason in lists.iter().copied().flatten() {
        let reasons = by_status.entry(reason.status()).or_default();
        if !reasons.contains(reason) {
            reasons.push(*reason);
        }
    }
    for (status, reasons) in by_status {
        responses.insert(status.to_string(), refusals(&reasons));
    }
    if scope.is_some() {
        for response in responses.values_mut() {
            for (name, component) in [("RateLimit", "RateLimit"), ("RateLimit-Policy", "RateLimitPolicy")] {
                response["headers"][name] = json!({ "$ref": format!("#/components/headers/{component}") });
            }
        }
    }
    let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = named.map(path_parameter).chain(told.parameters).collect();
    let security = scope.map_or_else(|| json!([]), |scope| json!([{ "capability": [scope.to_string()] }]));
    let mut operation = json!({
        "operationId": told.id,
        "summary": told.summary,
        "parameters": parameters,
        "responses": responses,
        "security": security,
    });
    if let Some(body) = told.body {
        operation["requestBody"] = body;
    }
    operation
}

/// The document.
pub(super) fn document(mut schemas: Map<String, Value>) -> Value {
    let member = |name: &str, schema: Value| (name.to_owned(), schema);
    schemas.extend([
        member(
            "Epoch",
            json!({
                "type": "object",
                "description": "what a run left behind; `manifest` stands here as its canonical bytes",
                "additionalProperties": false,
                "required": ["attestation", "commitment", "delivery", "manifest"],
                "properties": {
                    "attestation": reference("Attestation"),
                    "commitment": reference("Cid"),
                    "delivery": { "oneOf": [reference("Delivery"), { "type": "null" }] },
                    "manifest": reference("Manifest"),
                },
            }),
        ),
        member(
            "Pending",
            json!({
                "type": "object",
                "additionalProperties": false,
                "required": ["epoch_id", "status"],
                "properties": { "epoch_id": reference("EpochId"), "status": { "type": "string", "const": "running" } },
            }),
        ),
    ]);
    let mut paths = Map::new();
    for ((method, path, scope), lists) in ROUTES.iter().zip(REASONS) {
        let operation = operation(told(method, path), path, *scope, lists);
        paths.insert((*path).to_owned(), json!({ method.as_str().to_lowercase(): operation }));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "svc-rewarder",
            "version": "1",
            "description": "Takes an epoch's sealed inputs, pays out a pool exactly, proves it, and tells the ledger once. \
                Amounts are strings of minor units. Every refusal is a problem (RFC 9457) whose `reason` says which. \
                Where there is GET there is HEAD.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {
                "CorrId": {
                    "description": "the caller's correlation id, if it sent a sane one, or a new one",
                    "required": true,
                    "schema": { "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._:-]+$" },
                },
                "RateLimit": {
                    "description": "tokens that are left to the capability's tenant, and seconds until all are back \
                        (draft-ietf-httpapi-ratelimit-headers); absent until the capability has named a tenant",
                    "schema": { "type": "string", "pattern": "^\"tenant\";r=[0-9]+;t=[0-9]+$" },
                },
                "RateLimitPolicy": {
                    "description": "tokens of a full bucket, and seconds in which an empty one fills. A request is a token, and \
                        so is each 4 MiB of a snapshot that it stores or computes",
                    "schema": { "type": "string", "pattern": "^\"tenant\";q=[0-9]+;w=[0-9]+$" },
                },
            },
            "securitySchemes": {
                "capability": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a macaroon, v2 binary, base64url; its `scope` caveats name what it allows",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_has_its_refusals_and_every_reason_its_route() {
        assert_eq!(ROUTES.len(), REASONS.len());
        let told: BTreeSet<Reason> =
            REASONS.iter().flat_map(|lists| lists.iter().copied().flatten()).copied().collect();
        // Not of a route: no path of ours, and an actor that is not there is an answer with a proof.
        let elsewhere = BTreeSet::from([NotFound, ActorNotFound]);
        let missing: Vec<&Reason> =
            Reason::ALL.iter().filter(|r| !told.contains(r) && !elsewhere.contains(r)).collect();
        assert!(missing.is_empty(), "no route answers {missing:?}");
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let names: BTreeSet<_> = ROUTES.iter().map(|(method, path, _)| told(method, path).id).collect();
        assert_eq!(names.len(), ROUTES.len());
    }
}
