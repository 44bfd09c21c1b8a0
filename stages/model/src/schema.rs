//! What the nouns look like from outside, as JSON Schema (2020-12). Types that serde derives derive their schema too; here are
//! those whose reader is written by hand, and so their schema has to be: names, identities, amounts, reasons, the policy.
//!
//! The law: a schema never refuses what the reader takes. The reader may refuse more (a weight at the common scale must
//! stay below 2^64, names stand only once), which no schema can say; `testing/contract/run` holds both against each other.

use crate::{Amount, Asset, Category, Cid, EpochId, Policy, PolicyId, Reason, TenantId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

macro_rules! text {
    ($type:ty, $name:literal, $min:literal ..= $max:literal, $pattern:literal, $description:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string", "minLength": $min, "maxLength": $max, "pattern": $pattern,
                    "description": $description,
                })
            }
        }
    };
}

text!(Cid, "Cid", 67..=67, "^b3:[0-9a-f]{64}$", "`b3:` and the 64 lowercase hex digits of BLAKE3-256");
text!(
    Amount,
    "Amount",
    1..=38,
    "^(0|[1-9][0-9]{0,37})$",
    "minor units: a whole number below 10^38, in decimal"
);
text!(TenantId, "TenantId", 1..=64, "^[a-z0-9-]+$", "who owns an epoch");
text!(EpochId, "EpochId", 1..=128, "^[A-Za-z0-9][A-Za-z0-9._:-]*$", "one period of one tenant");
text!(PolicyId, "PolicyId", 1..=128, "^[A-Za-z0-9][A-Za-z0-9._:-]*$", "binds to one policy for good");
text!(
    Asset,
    "Asset",
    1..=64,
    "^[ !#-&(-\\[\\]-~]+$",
    "what is paid: printable ASCII without quotes and backslash"
);
text!(
    Category,
    "Category",
    1..=64,
    "^[ !#-&(-\\[\\]-~]+$",
    "a kind of work: printable ASCII without quotes and backslash"
);

impl JsonSchema for Reason {
    fn schema_name() -> Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = Self::ALL.iter().map(|reason| reason.as_str()).collect();
        json_schema!({ "type": "string", "enum": words, "description": "why something was refused" })
    }
}

impl JsonSchema for Policy {
    fn schema_name() -> Cow<'static, str> {
        "Policy".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let amount = generator.subschema_for::<Amount>();
        let id = generator.subschema_for::<PolicyId>();
        let category = generator.subschema_for::<Category>();
        json_schema!({
            "type": "object",
            "description": "rewarder.policy.v1: how scores become payouts",
            "additionalProperties": false,
            "required": ["schema", "id", "mode", "weights", "rounding"],
            "properties": {
                "schema": { "type": "string", "const": crate::policy::SCHEMA },
                "id": id,
                "mode": { "type": "string", "enum": ["share", "tariff"] },
                "weights": {
                    "type": "object",
                    "propertyNames": category,
                    "additionalProperties": {
                        "type": "string",
                        "pattern": "^[0-9]{1,10}(\\.[0-9]{1,18})?$",
                        "description": "an exact decimal; at the scale of all of them together below 2^64",
                    },
                },
                "rounding": { "type": "string", "enum": ["floor", "largest_remainder", "half_even"] },
                "min_payout_minor_units": amount,
                "caps": {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "epoch_minor_units": amount,
                        "actor_minor_units": amount,
                        "excess": { "type": "string", "enum": ["redistribute", "residual"] },
                    },
                },
            },
            "if": { "properties": { "mode": { "const": "share" } } },
            "then": { "properties": { "rounding": { "enum": ["floor", "largest_remainder"] } } },
            "else": {
                "properties": {
                    "rounding": { "enum": ["floor", "half_even"] },
                    "caps": { "properties": { "excess": false } },
                },
            },
        })
    }
}
