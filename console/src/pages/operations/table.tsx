/* oxlint-disable jsx-a11y/no-redundant-roles, jsx-a11y/no-interactive-element-to-noninteractive-role -- see below */
/**
 * A table that becomes cards where it is narrow. Then its parts are no longer laid out as a table, and browsers forget that
 * they are one: so the roles are said out loud.
 */
import type { ReactNode } from "react";
import css from "./table.module.css";

export interface Column<T> {
  name: string;
  cell: (row: T) => ReactNode;
  /** `wide`: takes what is left. `word`: is not broken. `number`: to the right. `actions`: buttons. */
  kind?: "wide" | "word" | "number" | "actions";
}

export function Table<T>({
  label,
  columns,
  rows,
  keyOf,
  marks,
}: {
  label: string;
  columns: Column<T>[];
  rows: T[];
  keyOf: (row: T) => string | number;
  /** Data attributes of a row, for its looks and for tests. */
  marks?: (row: T) => Record<`data-${string}`, string | number>;
}) {
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- scrolls by itself, so it has to be reached by keyboard
    <div className={css.table} tabIndex={0} role="group" aria-label={label}>
      <table role="table" aria-label={label}>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map((column) => (
              <th key={column.name} role="columnheader" scope="col" data-kind={column.kind}>
                {column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map((row) => (
            <tr key={keyOf(row)} role="row" {...marks?.(row)}>
              {columns.map((column) => (
                <td key={column.name} role="cell" data-kind={column.kind}>
                  {/* The column's name, where there is no head to read it from. */}
                  <span className={css.cellName} aria-hidden="true">
                    {column.name}
                  </span>
                  <div className={css.value}>{column.cell(row)}</div>
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
