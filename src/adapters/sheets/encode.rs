//! [`Request`] to the JSON of a batchUpdate, by way of google-sheets4's types.
//!
//! Called by [`super::gateway`] for every batch. One typed request lives at a time: the crate's `Request` takes 30 kB and its `CellData` 3 kB, so a
//! batch of ten thousand of them at once would take hundreds of megabytes. What must never happen here: a formula, a cell that is
//! cleared because its number is not finite, or a format or validation touched that the write does not speak of.

use google_sheets4::FieldMask;
use google_sheets4::api;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::cells;
use crate::domain::sheet::Request;

/// A batch that cannot be expressed; the text says which value.
pub(super) type Unsendable = String;

/// The `requests` array.
///
/// # Errors
/// If a number does not fit, or an amount is not finite.
pub(super) fn requests(requests: &[Request]) -> Result<Vec<Box<RawValue>>, Unsendable> {
    let mut out = Vec::with_capacity(requests.len());
    for request in requests {
        if let Request::WriteCells { sheet_id, row, column, cells } = request {
            cells::write(*sheet_id, *row, *column, cells, |typed| push(&mut out, typed))?;
        } else {
            push(&mut out, one(request)?)?;
        }
    }
    Ok(out)
}

fn push(out: &mut Vec<Box<RawValue>>, typed: api::Request) -> Result<(), Unsendable> {
    let unsendable = |error| format!("a request has no JSON form: {error}");
    let mut json = serde_json::to_value(typed).map_err(unsendable)?;
    strip_nulls(&mut json);
    // As text it takes a tenth of the memory.
    out.push(serde_json::value::to_raw_value(&json).map_err(unsendable)?);
    Ok(())
}

/// The typed form writes every field it does not use as null. Arrays are left whole: an element's position is its meaning.
fn strip_nulls(value: &mut Json) {
    match value {
        Json::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Json::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

fn one(request: &Request) -> Result<api::Request, Unsendable> {
    Ok(match request {
        Request::CreateMetadata { id, key, value } => create_metadata(*id, key, value),
        Request::DeleteMetadata { id } => delete_metadata(*id),
        Request::AddSheet { .. } => add_sheet(request)?,
        Request::DeleteSheet { sheet_id } => {
            api::Request { delete_sheet: Some(api::DeleteSheetRequest { sheet_id: Some(*sheet_id) }), ..Default::default() }
        }
        Request::RenameSheet { sheet_id, title } => {
            let properties = api::SheetProperties { sheet_id: Some(*sheet_id), title: Some(title.clone()), ..Default::default() };
            update_sheet(properties, "title")
        }
        Request::FreezeRows { sheet_id, rows } => {
            let grid = api::GridProperties { frozen_row_count: Some(index(*rows)?), ..Default::default() };
            let properties = api::SheetProperties { sheet_id: Some(*sheet_id), grid_properties: Some(grid), ..Default::default() };
            update_sheet(properties, "gridProperties.frozenRowCount")
        }
        Request::InsertRows { sheet_id, start, count, inherit_from_before } => {
            let insert = api::InsertDimensionRequest {
                range: Some(span(*sheet_id, "ROWS", *start, *count)?),
                inherit_from_before: Some(*inherit_from_before),
            };
            api::Request { insert_dimension: Some(insert), ..Default::default() }
        }
        Request::DeleteRows { sheet_id, start, count } => {
            let delete = api::DeleteDimensionRequest { range: Some(span(*sheet_id, "ROWS", *start, *count)?) };
            api::Request { delete_dimension: Some(delete), ..Default::default() }
        }
        Request::AppendColumns { sheet_id, count } => {
            let append =
                api::AppendDimensionRequest { sheet_id: Some(*sheet_id), dimension: Some("COLUMNS".to_owned()), length: Some(index(*count)?) };
            api::Request { append_dimension: Some(append), ..Default::default() }
        }
        Request::HideColumn { sheet_id, column } => {
            let hidden = api::DimensionProperties { hidden_by_user: Some(true), ..Default::default() };
            update_column(*sheet_id, *column, hidden, "hiddenByUser")?
        }
        Request::ColumnWidth { sheet_id, column, pixels } => {
            let width = api::DimensionProperties { pixel_size: Some(index(*pixels)?), ..Default::default() };
            update_column(*sheet_id, *column, width, "pixelSize")?
        }
        Request::StyleHeader { sheet_id, columns } => style_header(*sheet_id, *columns)?,
        Request::WarnOnEdit { sheet_id, rows, description } => warn_on_edit(*sheet_id, *rows, description)?,
        Request::WriteCells { .. } => return Err("cells are written by their own function".to_owned()),
    })
}

/// Google counts in i32.
pub(super) fn index(number: u32) -> Result<i32, Unsendable> {
    i32::try_from(number).map_err(|_| format!("{number} is more rows or columns than a tab can have"))
}

fn span(sheet_id: i32, dimension: &str, start: u32, count: u32) -> Result<api::DimensionRange, Unsendable> {
    let end = start.checked_add(count).ok_or_else(|| format!("{count} more than {start} is more than a tab can have"))?;
    Ok(api::DimensionRange {
        sheet_id: Some(sheet_id),
        dimension: Some(dimension.to_owned()),
        start_index: Some(index(start)?),
        end_index: Some(index(end)?),
    })
}

fn create_metadata(id: i32, key: &str, value: &str) -> api::Request {
    let entry = api::DeveloperMetadata {
        metadata_id: Some(id),
        metadata_key: Some(key.to_owned()),
        metadata_value: Some(value.to_owned()),
        location: Some(api::DeveloperMetadataLocation { spreadsheet: Some(true), ..Default::default() }),
        // PROJECT entries would be invisible after a move to another Cloud project, while their ids still clash.
        visibility: Some("DOCUMENT".to_owned()),
    };
    let create = api::CreateDeveloperMetadataRequest { developer_metadata: Some(entry) };
    api::Request { create_developer_metadata: Some(create), ..Default::default() }
}

fn delete_metadata(id: i32) -> api::Request {
    let lookup = api::DeveloperMetadataLookup { metadata_id: Some(id), ..Default::default() };
    let filter = api::DataFilter { developer_metadata_lookup: Some(lookup), ..Default::default() };
    let delete = api::DeleteDeveloperMetadataRequest { data_filter: Some(filter) };
    api::Request { delete_developer_metadata: Some(delete), ..Default::default() }
}

fn add_sheet(request: &Request) -> Result<api::Request, Unsendable> {
    let Request::AddSheet { sheet_id, title, rows, columns, frozen_rows, hidden, tab_color } = request else {
        return Err("not a request for a new tab".to_owned());
    };
    let grid = api::GridProperties {
        row_count: Some(index(*rows)?),
        column_count: Some(index(*columns)?),
        frozen_row_count: (*frozen_rows > 0).then(|| index(*frozen_rows)).transpose()?,
        ..Default::default()
    };
    let properties = api::SheetProperties {
        // Google takes an explicit 0 for the first tab's id and refuses the clash; left out, it assigns one.
        sheet_id: (*sheet_id != 0).then_some(*sheet_id),
        title: Some(title.clone()),
        grid_properties: Some(grid),
        hidden: hidden.then_some(true),
        tab_color_style: tab_color.map(color_style),
        ..Default::default()
    };
    Ok(api::Request { add_sheet: Some(api::AddSheetRequest { properties: Some(properties) }), ..Default::default() })
}

fn color_style([red, green, blue]: [f32; 3]) -> api::ColorStyle {
    let rgb = api::Color { red: Some(red), green: Some(green), blue: Some(blue), alpha: None };
    api::ColorStyle { rgb_color: Some(rgb), theme_color: None }
}

fn update_sheet(properties: api::SheetProperties, field: &str) -> api::Request {
    let update = api::UpdateSheetPropertiesRequest { properties: Some(properties), fields: Some(FieldMask::new(&[field])) };
    api::Request { update_sheet_properties: Some(update), ..Default::default() }
}

fn update_column(sheet_id: i32, column: u32, properties: api::DimensionProperties, field: &str) -> Result<api::Request, Unsendable> {
    let update = api::UpdateDimensionPropertiesRequest {
        range: Some(span(sheet_id, "COLUMNS", column, 1)?),
        properties: Some(properties),
        fields: Some(FieldMask::new(&[field])),
        ..Default::default()
    };
    Ok(api::Request { update_dimension_properties: Some(update), ..Default::default() })
}

/// Dark blue with white bold text: readable in every theme, and in print.
fn style_header(sheet_id: i32, columns: u32) -> Result<api::Request, Unsendable> {
    let text = api::TextFormat { bold: Some(true), foreground_color_style: Some(color_style([1.0, 1.0, 1.0])), ..Default::default() };
    let format = api::CellFormat {
        background_color_style: Some(color_style([0.16, 0.25, 0.38])),
        text_format: Some(text),
        vertical_alignment: Some("MIDDLE".to_owned()),
        wrap_strategy: Some("WRAP".to_owned()),
        ..Default::default()
    };
    let fields = ["backgroundColorStyle", "textFormat.bold", "textFormat.foregroundColorStyle", "verticalAlignment", "wrapStrategy"];
    let repeat = api::RepeatCellRequest {
        range: Some(api::GridRange {
            sheet_id: Some(sheet_id),
            start_row_index: Some(0),
            end_row_index: Some(1),
            start_column_index: Some(0),
            end_column_index: Some(index(columns)?),
        }),
        cell: Some(api::CellData { user_entered_format: Some(format), ..Default::default() }),
        fields: Some(FieldMask::new(&fields.map(|field| format!("userEnteredFormat.{field}")))),
    };
    Ok(api::Request { repeat_cell: Some(repeat), ..Default::default() })
}

fn warn_on_edit(sheet_id: i32, rows: Option<u32>, description: &str) -> Result<api::Request, Unsendable> {
    let range = api::GridRange {
        sheet_id: Some(sheet_id),
        start_row_index: rows.map(|_| 0),
        end_row_index: rows.map(index).transpose()?,
        ..Default::default()
    };
    let protected =
        api::ProtectedRange { range: Some(range), description: Some(description.to_owned()), warning_only: Some(true), ..Default::default() };
    let add = api::AddProtectedRangeRequest { protected_range: Some(protected) };
    Ok(api::Request { add_protected_range: Some(add), ..Default::default() })
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
