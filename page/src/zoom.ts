/** Zooming and panning a picture that is fitted into a box. Pure; pixels, from the box's middle. */

export interface Zoom {
  scale: number;
  x: number;
  y: number;
}

export const FITTED: Zoom = { scale: 1, x: 0, y: 0 };
const MOST = 12;

/** The picture's size where it is fitted into `box`, and never enlarged beyond its own. */
export function fitted(picture: { width: number; height: number }, box: { width: number; height: number }): { width: number; height: number } {
  const factor = Math.min(1, box.width / picture.width, box.height / picture.height);
  return { width: picture.width * factor, height: picture.height * factor };
}

/** `zoom` times `factor`, so that what lies at (`x`, `y`) stays there. */
export function zoomed(zoom: Zoom, factor: number, x = 0, y = 0): Zoom {
  const scale = Math.min(MOST, Math.max(1, zoom.scale * factor));
  if (scale === 1) return FITTED;
  const grown = scale / zoom.scale;
  return { scale, x: x - (x - zoom.x) * grown, y: y - (y - zoom.y) * grown };
}

/** Moved by (`x`, `y`), so that the picture does not leave the box. */
export function panned(zoom: Zoom, x: number, y: number, size: { width: number; height: number }, box: { width: number; height: number }): Zoom {
  const room = (side: "width" | "height"): number => Math.max(0, (size[side] * zoom.scale - box[side]) / 2);
  const within = (value: number, most: number): number => Math.max(-most, Math.min(most, value));
  return { scale: zoom.scale, x: within(zoom.x + x, room("width")), y: within(zoom.y + y, room("height")) };
}
