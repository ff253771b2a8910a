//! Catalogs of what Proteus has not: their columns, so that tools' queries are understood.

use proteus_kernel_api::table::ColumnType;

use super::Content;
use crate::types::TEXT;

const OID: ColumnType = ColumnType::BigInt;
const BOOL: ColumnType = ColumnType::Bool;
const INT: ColumnType = ColumnType::Integer;

/// The content of a catalog without rows.
pub(super) fn table(name: &str) -> Option<Content> {
    let columns: &[(&'static str, ColumnType)] = match name {
        "pg_policy" => &[
            ("oid", OID),
            ("polname", TEXT),
            ("polrelid", OID),
            ("polcmd", TEXT),
            ("polpermissive", BOOL),
            ("polroles", TEXT),
            ("polqual", TEXT),
            ("polwithcheck", TEXT),
        ],
        "pg_statistic_ext" => &[
            ("oid", OID),
            ("stxrelid", OID),
            ("stxname", TEXT),
            ("stxnamespace", OID),
            ("stxowner", OID),
            ("stxstattarget", INT),
            ("stxkeys", TEXT),
            ("stxkind", TEXT),
        ],
        "pg_publication" => &[
            ("oid", OID),
            ("pubname", TEXT),
            ("pubowner", OID),
            ("puballtables", BOOL),
            ("pubinsert", BOOL),
            ("pubupdate", BOOL),
            ("pubdelete", BOOL),
            ("pubtruncate", BOOL),
            ("pubviaroot", BOOL),
        ],
        "pg_publication_rel" => {
            &[("oid", OID), ("prpubid", OID), ("prrelid", OID), ("prqual", TEXT), ("prattrs", TEXT)]
        }
        "pg_publication_namespace" => &[("oid", OID), ("pnpubid", OID), ("pnnspid", OID)],
        "pg_inherits" => {
            &[("inhrelid", OID), ("inhparent", OID), ("inhseqno", INT), ("inhdetachpending", BOOL)]
        }
        "pg_trigger" => &[
            ("oid", OID),
            ("tgrelid", OID),
            ("tgparentid", OID),
            ("tgname", TEXT),
            ("tgfoid", OID),
            ("tgtype", INT),
            ("tgenabled", TEXT),
            ("tgisinternal", BOOL),
            ("tgconstrrelid", OID),
            ("tgconstrindid", OID),
            ("tgconstraint", OID),
            ("tgdeferrable", BOOL),
            ("tginitdeferred", BOOL),
        ],
        "pg_rewrite" => &[
            ("oid", OID),
            ("rulename", TEXT),
            ("ev_class", OID),
            ("ev_type", TEXT),
            ("ev_enabled", TEXT),
            ("is_instead", BOOL),
        ],
        "pg_foreign_table" => &[("ftrelid", OID), ("ftserver", OID), ("ftoptions", TEXT)],
        "pg_foreign_server" => {
            &[("oid", OID), ("srvname", TEXT), ("srvfdw", OID), ("srvowner", OID)]
        }
        "pg_foreign_data_wrapper" => &[("oid", OID), ("fdwname", TEXT), ("fdwowner", OID)],
        "pg_partitioned_table" => &[("partrelid", OID), ("partstrat", TEXT), ("partdefid", OID)],
        "pg_description" => {
            &[("objoid", OID), ("classoid", OID), ("objsubid", INT), ("description", TEXT)]
        }
        "pg_shdescription" => &[("objoid", OID), ("classoid", OID), ("description", TEXT)],
        "pg_collation" => {
            &[("oid", OID), ("collname", TEXT), ("collnamespace", OID), ("collprovider", TEXT)]
        }
        "pg_sequence" => &[
            ("seqrelid", OID),
            ("seqtypid", OID),
            ("seqstart", OID),
            ("seqincrement", OID),
            ("seqmax", OID),
            ("seqmin", OID),
            ("seqcache", OID),
            ("seqcycle", BOOL),
        ],
        "pg_enum" => &[
            ("oid", OID),
            ("enumtypid", OID),
            ("enumsortorder", ColumnType::Real),
            ("enumlabel", TEXT),
        ],
        "pg_range" => &[("rngtypid", OID), ("rngsubtype", OID), ("rngmultitypid", OID)],
        "pg_depend" => &[
            ("classid", OID),
            ("objid", OID),
            ("objsubid", INT),
            ("refclassid", OID),
            ("refobjid", OID),
            ("refobjsubid", INT),
            ("deptype", TEXT),
        ],
        "pg_proc" => &[
            ("oid", OID),
            ("proname", TEXT),
            ("pronamespace", OID),
            ("proowner", OID),
            ("prokind", TEXT),
            ("prorettype", OID),
            ("proargtypes", TEXT),
            ("prosrc", TEXT),
            ("proisstrict", BOOL),
        ],
        "pg_opclass" => &[("oid", OID), ("opcname", TEXT), ("opcmethod", OID), ("opcintype", OID)],
        "pg_extension" => &[
            ("oid", OID),
            ("extname", TEXT),
            ("extowner", OID),
            ("extnamespace", OID),
            ("extversion", TEXT),
        ],
        "pg_views" => {
            &[("schemaname", TEXT), ("viewname", TEXT), ("viewowner", TEXT), ("definition", TEXT)]
        }
        "pg_matviews" => &[("schemaname", TEXT), ("matviewname", TEXT), ("definition", TEXT)],
        "pg_auth_members" => {
            &[("roleid", OID), ("member", OID), ("grantor", OID), ("admin_option", BOOL)]
        }
        "pg_prepared_xacts" => &[("transaction", OID), ("gid", TEXT), ("database", TEXT)],
        "pg_stat_activity" => &[("datid", OID), ("pid", INT), ("usename", TEXT), ("query", TEXT)],
        "pg_locks" => &[("locktype", TEXT), ("pid", INT), ("mode", TEXT), ("granted", BOOL)],
        "pg_event_trigger" => &[("oid", OID), ("evtname", TEXT)],
        "pg_subscription" => &[("oid", OID), ("subname", TEXT)],
        _ => return None,
    };
    Some((columns.to_vec(), Vec::new()))
}
