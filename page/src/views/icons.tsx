/** The page's icons: outlines on 24 x 24, in the colour of the text beside them. They say nothing to screen readers. */

const PATHS = {
  files: "M3 7a2 2 0 0 1 2-2h4l2 2.500h8a2 2 0 0 1 2 2V17a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2z",
  room: "M4 9h16M4 15h16M10 4 8 20M16 4l-2 16",
  image: "M4 5h16v14H4zM4 16l4.5-4.500L13 16l2.5-2.500L20 17.500M15.5 9.500h.01",
  video: "M3 6.500A1.5 1.5 0 0 1 4.5 5h10A1.5 1.5 0 0 1 16 6.500v11a1.5 1.5 0 0 1-1.5 1.500h-10A1.5 1.5 0 0 1 3 17.500zM16 10l5-3v10l-5-3",
  audio: "M4 10v4M8 6v12M12 9v6M16 4v16M20 10v4",
  document: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.5 4.5",
  upload: "M12 16V4M7 9l5-5 5 5M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3",
  download: "M12 4v12M7 11l5 5 5-5M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3",
  grid: "M4 4h6.500v6.500H4zM13.5 4H20v6.500h-6.500zM4 13.500h6.500V20H4zM13.5 13.500H20V20h-6.500z",
  list: "M4 6h16M4 12h16M4 18h16",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  close: "M6 6l12 12M18 6 6 18",
  check: "M5 12.500l4.5 4.500L19 7.5",
  clock: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 8v4.500l3 2",
  warning: "M12 4 2.8 20h18.400zM12 10v4.500M12 17.300h.01",
  pause: "M8 5v14M16 5v14",
  play: "M7 4.500v15l12-7.500z",
  link: "M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.7-5.700l-1.2 1.200M14 10a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.7 5.700l1.2-1.2",
  pen: "M4 20l1-4L16.5 4.500a2 2 0 0 1 3 3L8 19z",
  bin: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  words: "M4 6h16v10H9l-4 4v-4H4zM8 10h8M8 13h5",
  shield: "M12 3l7 3v5c0 4.5-2.8 8-7 10-4.2-2-7-5.5-7-10V6z",
  eye: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  before: "M15 5l-7 7 7 7",
  after: "M9 5l7 7-7 7",
  down: "M6 9l6 6 6-6",
  camera: "M4 8h3.500L9 5.500h6L16.5 8H20v11H4zM12 10a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7z",
  microphone: "M12 3a3 3 0 0 0-3 3v5a3 3 0 0 0 6 0V6a3 3 0 0 0-3-3zM5.5 11a6.5 6.5 0 0 0 13 0M12 17.500V21",
  person: "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM4.5 20c.6-3.5 3.6-5.5 7.5-5.500s6.9 2 7.5 5.5",
  menu: "M4 7h16M4 12h16M4 17h16",
  jobs: "M5 4h14v6H5zM5 14h14v6H5zM8.5 7h.01M8.5 17h.01M12 7h4M12 17h4",
  tag: "M4 4h8l8 8-8 8-8-8zM8.5 8.500h.01",
  tick: "M5 12.500l4.5 4.500L19 7.5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, flips = false }: { name: IconName; flips?: boolean }) {
  return (
    <svg class={`icon${flips ? " flips" : ""}${name === "more" ? " dots" : ""}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
