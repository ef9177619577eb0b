export function Viewer({ id, onClose }: { id: string; onClose: () => void }) {
  return <div role="dialog" aria-label={id}><button onClick={onClose}>x</button></div>;
}
