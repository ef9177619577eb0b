/** Which of many equal rows are in sight. Pure. */

export interface Grid {
  columns: number;
  /** Pixels from one row to the next. */
  row: number;
  rows: number;
}

/** As many columns of at least `least` pixels as `width` holds, with `gap` between them. */
export function columnsIn(width: number, least: number, gap: number): number {
  return Math.max(1, Math.floor((width + gap) / (least + gap)));
}

/** The first item in sight and the first after it, with `extra` rows on both sides. */
export function window(grid: Grid, top: number, height: number, extra: number): { first: number; last: number } {
  const from = Math.max(0, Math.floor(top / grid.row) - extra);
  const to = Math.min(grid.rows, Math.ceil((top + height) / grid.row) + extra);
  return { first: from * grid.columns, last: Math.max(from, to) * grid.columns };
}

/** Where `key` leads from item `index`, of `count`. */
export function moved(key: string, index: number, count: number, columns: number, page: number, isRtl: boolean): number {
  const steps: Record<string, number> = {
    ArrowRight: isRtl ? -1 : 1,
    ArrowLeft: isRtl ? 1 : -1,
    ArrowDown: columns,
    ArrowUp: -columns,
    PageDown: columns * page,
    PageUp: -columns * page,
    Home: -count,
    End: count,
  };
  const to = index + (steps[key] ?? 0);
  if (key === "ArrowUp" && to < 0) return index;
  return Math.max(0, Math.min(count - 1, to));
}
