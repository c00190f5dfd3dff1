//! Cell masks and the ledger's arrays, as SQL handles them.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    fn mask(cells: &[u32]) -> String {
        let mut words = vec![0u64; 1 + cells.iter().max().map_or(0, |c| *c as usize / 64)];
        for cell in cells {
            words[*cell as usize / 64] |= 1 << (cell % 64);
        }
        let hex: String = words.iter().map(|w| format!("{w:016x}")).collect();
        format!("'\\x{hex}'::bytea")
    }

    #[pg_test]
    fn a_union_has_the_cells_of_either_mask() {
        for (a, b) in [
            (vec![], vec![]),
            (vec![0], vec![63]),
            (vec![1, 64], vec![2]),
            (vec![5], vec![5, 130]),
        ] {
            let all: Vec<u32> = a.iter().chain(&b).copied().collect();
            let equal = format!(
                "SELECT crm_internal.cells_or({}, {}) = {}",
                mask(&a),
                mask(&b),
                mask(&all)
            );
            assert_eq!(value(&equal), "true", "{a:?} {b:?}");
        }
        let masks = format!(
            "(VALUES ({}), (NULL), ({}), ({})) v (m)",
            mask(&[3]),
            mask(&[64]),
            mask(&[3, 7])
        );
        assert_eq!(
            value(&format!(
                "SELECT crm_internal.cells_union(m) = {} FROM {masks}",
                mask(&[3, 7, 64])
            )),
            "true"
        );
        assert_eq!(
            value("SELECT crm_internal.cells_union(m) FROM (VALUES (NULL::bytea)) v (m)"),
            "NULL"
        );
    }

    #[pg_test]
    fn a_mask_counts_and_has_its_cells() {
        let m = mask(&[0, 63, 64, 99]);
        assert_eq!(value(&format!("SELECT crm_internal.cells_count({m})")), "4");
        assert_eq!(
            value(&format!(
                "SELECT array_agg(i) FILTER (WHERE crm_internal.cells_has({m}, i)) FROM generate_series(-1, 200) i"
            )),
            "{0,63,64,99}"
        );
        assert_eq!(
            value(&format!("SELECT crm_internal.cells_has({m}, 2147483647)")),
            "false"
        );
        assert_eq!(value("SELECT crm_internal.cells_count('')"), "0");
    }

    #[pg_test]
    fn a_stamp_sets_the_times_of_its_cells_alone() {
        run("SET LOCAL timezone = 'UTC'");
        assert_eq!(
            value(&format!(
                "SELECT crm_internal.cells_stamp('{{2020-01-01, 2020-01-01}}', {}, '2026-01-01')",
                mask(&[1, 3])
            )),
            r#"{"2020-01-01 00:00:00+00","2026-01-01 00:00:00+00",NULL,"2026-01-01 00:00:00+00"}"#
        );
        assert_eq!(
            value("SELECT crm_internal.cells_stamp(NULL, NULL, now())"),
            "NULL"
        );
        assert_eq!(
            value(
                "SELECT crm_internal.cells_merge('{2020-01-01, NULL, 2022-01-01}', '{2021-01-01, 2021-01-01}')"
            ),
            r#"{"2021-01-01 00:00:00+00","2021-01-01 00:00:00+00","2022-01-01 00:00:00+00"}"#
        );
    }

    #[pg_test]
    fn hashes_lie_at_sixteen_bytes_per_cell() {
        let one = "11".repeat(16);
        let two = "22".repeat(16);
        assert_eq!(
            value(&format!(
                "SELECT crm_internal.cells_hash(NULL, {}, '\\x{one}{two}')",
                mask(&[0, 2])
            )),
            format!("\\x{one}{}{two}", "00".repeat(16))
        );
        assert_eq!(
            value(&format!(
                "SELECT crm_internal.cells_hash('\\x{one}', {}, '\\x{two}')",
                mask(&[0])
            )),
            format!("\\x{two}")
        );
    }
}
