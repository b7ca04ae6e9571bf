//! Every field of every structure: name, offset in the structure, length.
//!
//! For tests that set each of them to nonsense; written down from the formats sheet, section 2.

use crate::vhd_builder::Field;

/// Every field of a header.
pub const HEADER_FIELDS: [Field; 11] = [
    ("signature", 0, 4),
    ("checksum", 4, 4),
    ("sequence number", 8, 8),
    ("FileWriteGuid", 16, 16),
    ("DataWriteGuid", 32, 16),
    ("LogGuid", 48, 16),
    ("log version", 64, 2),
    ("version", 66, 2),
    ("log length", 68, 4),
    ("log offset", 72, 8),
    ("reserved", 80, 4016),
];
/// Every field of a region table, of its entries the first two.
pub const TABLE_FIELDS: [Field; 12] = [
    ("signature", 0, 4),
    ("checksum", 4, 4),
    ("entry count", 8, 4),
    ("reserved", 12, 4),
    ("first guid", 16, 16),
    ("first offset", 32, 8),
    ("first length", 40, 4),
    ("first flags", 44, 4),
    ("second guid", 48, 16),
    ("second offset", 64, 8),
    ("second length", 72, 4),
    ("second flags", 76, 4),
];
/// Every field of the metadata table's head.
pub const METADATA_FIELDS: [Field; 4] = [
    ("signature", 0, 8),
    ("reserved", 8, 2),
    ("entry count", 10, 2),
    ("reserved end", 12, 20),
];
/// Every field of a metadata table's entry.
pub const ITEM_FIELDS: [Field; 5] = [
    ("guid", 0, 16),
    ("offset", 16, 4),
    ("length", 20, 4),
    ("flags", 24, 4),
    ("reserved", 28, 4),
];
/// Every field of a parent locator, of its pairs the first.
pub const LOCATOR_FIELDS: [Field; 7] = [
    ("type", 0, 16),
    ("reserved", 16, 2),
    ("count", 18, 2),
    ("key offset", 20, 4),
    ("value offset", 24, 4),
    ("key length", 28, 2),
    ("value length", 30, 2),
];
/// Every field of a log entry's head, and of its first descriptor.
pub const ENTRY_FIELDS: [Field; 15] = [
    ("signature", 0, 4),
    ("checksum", 4, 4),
    ("entry length", 8, 4),
    ("tail", 12, 4),
    ("sequence number", 16, 8),
    ("descriptor count", 24, 4),
    ("reserved", 28, 4),
    ("LogGuid", 32, 16),
    ("FlushedFileOffset", 48, 8),
    ("LastFileOffset", 56, 8),
    ("descriptor signature", 64, 4),
    ("trailing bytes", 68, 4),
    ("leading bytes or length", 72, 8),
    ("file offset", 80, 8),
    ("descriptor's sequence number", 88, 8),
];
