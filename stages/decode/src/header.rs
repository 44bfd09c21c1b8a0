//! The schema message: the exact three columns, and the snapshot's words about itself.

use crate::error::{Broken, Fault};
use arrow_ipc::{Endianness, Field, Schema, Type};
use rewarder_model::snapshot::{COLUMNS, SCHEMA_V1, SnapshotHeader, key};
use std::str::FromStr;

/// What the schema message settles: the header, and which dictionary id belongs to which column.
#[derive(Debug)]
pub struct Opened {
    pub header: SnapshotHeader,
    pub actor_dictionary: i64,
    pub category_dictionary: i64,
}

pub fn read(schema: Schema<'_>) -> Result<Opened, Broken> {
    if schema.endianness() != Endianness::Little {
        return Err(Fault::BigEndian.here());
    }
    let fields = schema.fields().ok_or(Fault::ColumnCount.here())?;
    if fields.len() != COLUMNS.len() {
        return Err(Fault::ColumnCount.here());
    }
    for (field, name) in fields.iter().zip(COLUMNS) {
        if field.name() != Some(name) {
            return Err(Fault::ColumnName.here().column(name));
        }
    }
    let actor_dictionary = dictionary(&fields.get(0), 32).ok_or(Fault::ActorType.here())?;
    let category_dictionary = dictionary(&fields.get(1), 8).ok_or(Fault::CategoryType.here())?;
    if !is_unsigned(&fields.get(2), 64) || fields.get(2).dictionary().is_some() {
        return Err(Fault::UnitsType.here());
    }
    for (field, name) in fields.iter().zip(COLUMNS) {
        if field.dictionary().is_some_and(|dictionary| dictionary.isOrdered()) {
            return Err(Fault::DictionaryOrdered.here().column(name));
        }
    }
    if actor_dictionary == category_dictionary {
        return Err(Fault::DictionaryIdShared.here());
    }
    Ok(Opened { header: metadata(schema)?, actor_dictionary, category_dictionary })
}

fn is_unsigned(field: &Field<'_>, bits: i32) -> bool {
    no_children(field) && field.type_as_int().is_some_and(|int| int.bitWidth() == bits && !int.is_signed())
}

fn no_children(field: &Field<'_>) -> bool {
    field.children().is_none_or(|children| children.is_empty())
}

/// The id of the field's dictionary, if the field is `dictionary<uint{bits}, utf8>`.
fn dictionary(field: &Field<'_>, bits: i32) -> Option<i64> {
    let encoding = field.dictionary()?;
    let index = encoding.indexType()?;
    let fits = field.type_type() == Type::Utf8
        && no_children(field)
        && index.bitWidth() == bits
        && !index.is_signed();
    fits.then(|| encoding.id())
}

fn metadata(schema: Schema<'_>) -> Result<SnapshotHeader, Broken> {
    let mut found: [Option<&str>; 5] = [None; 5];
    for entry in schema.custom_metadata().into_iter().flatten() {
        let (name, value) = entry.key().zip(entry.value()).ok_or(Fault::KeyNull.here())?;
        if !name.starts_with(key::PREFIX) {
            continue;
        }
        let place = [key::SCHEMA, key::TENANT, key::EPOCH, key::ASSET, key::POOL]
            .iter()
            .position(|known| *known == name);
        let slot = &mut found[place.ok_or(Fault::KeyUnknown.here())?];
        if slot.replace(value).is_some() {
            return Err(Fault::KeyTwice.here());
        }
    }
    let [Some(version), Some(tenant), Some(epoch), Some(asset), Some(pool)] = found else {
        return Err(Fault::KeyMissing.here());
    };
    fn parsed<T: FromStr>(text: &str, fault: Fault) -> Result<T, Broken> {
        text.parse().map_err(|_| fault.here())
    }
    if version != SCHEMA_V1 {
        return Err(Fault::SchemaVersion.here());
    }
    Ok(SnapshotHeader {
        tenant: parsed(tenant, Fault::TenantInvalid)?,
        epoch: parsed(epoch, Fault::EpochInvalid)?,
        asset: parsed(asset, Fault::AssetInvalid)?,
        pool: parsed(pool, Fault::PoolInvalid)?,
    })
}
