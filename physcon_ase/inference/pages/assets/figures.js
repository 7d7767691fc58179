// Structures and plots of one molecule, drawn with plotly into the elements that detail.py leaves empty.
(() => {
  "use strict";
  const physcon = (window.physcon = window.physcon || {});
  const CONFIG = { responsive: true, displaylogo: false };
  const BUTTONS = {
    plot: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    structure: [["toImage", "resetCameraDefault3d"]],
  };
  const STICK_RADIUS = 0.09; // Å
  const SCALE = 2.2; // size of the scene, which then fills the height of its element
  const MARGIN = 0.9; // Å around the outermost atoms

  /** Vertices [x, y, z] and triangles of a sphere of radius 1: an icosahedron, each triangle divided n times. */
  function sphere(n) {
    const t = (1 + Math.sqrt(5)) / 2;
    const vertices = [[-1, t, 0], [1, t, 0], [-1, -t, 0], [1, -t, 0], [0, -1, t], [0, 1, t], [0, -1, -t], [0, 1, -t],
      [t, 0, -1], [t, 0, 1], [-t, 0, -1], [-t, 0, 1]].map(unit);
    let faces = [[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2],
      [10, 7, 6], [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10],
      [8, 6, 7], [9, 8, 1]];
    for (let round = 0; round < n; round++) {
      const middles = new Map();
      const middle = (a, b) => {
        const key = a < b ? `${a} ${b}` : `${b} ${a}`;
        if (!middles.has(key)) {
          vertices.push(unit(vertices[a].map((x, axis) => x + vertices[b][axis])));
          middles.set(key, vertices.length - 1);
        }
        return middles.get(key);
      };
      faces = faces.flatMap(([a, b, c]) => {
        const [d, e, f] = [middle(a, b), middle(b, c), middle(c, a)];
        return [[a, d, f], [d, b, e], [f, e, c], [d, e, f]];
      });
    }
    return { vertices, faces };
  }

  function unit(v) {
    const length = Math.hypot(...v);
    return v.map((x) => x / length);
  }

  function cross([a, b, c], [d, e, f]) {
    return [b * f - c * e, c * d - a * f, a * e - b * d];
  }

  /** One mesh of all atoms and bonds. */
  function mesh(view, flat) {
    const n = view.symbols.length;
    const place = (atom) => flat.slice(3 * atom, 3 * atom + 3);
    const found = { type: "mesh3d", x: [], y: [], z: [], i: [], j: [], k: [], vertexcolor: [], hovertext: [],
      hoverinfo: "text", flatshading: false,
      lighting: { ambient: 0.45, diffuse: 0.5, specular: 0.3, roughness: 0.3, fresnel: 0.1 },
      lightposition: { x: -8000, y: 8000, z: -8000 } }; // negative z is behind the viewer, wherever he is
    const add = (vertices, faces, colour, text) => {
      const start = found.x.length;
      for (const [x, y, z] of vertices) {
        found.x.push(x);
        found.y.push(y);
        found.z.push(z);
        found.vertexcolor.push(colour);
        found.hovertext.push(text);
      }
      for (const [a, b, c] of faces) {
        found.i.push(start + a);
        found.j.push(start + b);
        found.k.push(start + c);
      }
    };
    const ball = sphere(n > 150 ? 1 : 2);
    view.symbols.forEach((symbol, atom) => {
      const { colour, radius } = view.elements[symbol];
      const centre = place(atom);
      add(ball.vertices.map((v) => v.map((x, axis) => centre[axis] + radius * x)), ball.faces, colour,
        `${symbol}${atom}`);
    });
    for (const [first, second] of view.bonds) {
      const [start, end] = [place(first), place(second)];
      const length = Math.hypot(...end.map((x, axis) => x - start[axis])).toFixed(3);
      const text = `${view.symbols[first]}${first}-${view.symbols[second]}${second}: ${length} Å`;
      const halfway = start.map((x, axis) => (x + end[axis]) / 2);
      for (const [atom, from, to] of [[first, start, halfway], [second, halfway, end]]) {
        const { vertices, faces } = cylinder(from, to);
        add(vertices, faces, view.elements[view.symbols[atom]].colour, text);
      }
    }
    return found;
  }

  function cylinder(from, to) {
    const sides = 10;
    const along = unit(to.map((x, axis) => x - from[axis]));
    const one = unit(cross(along, Math.abs(along[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0]));
    const other = cross(along, one);
    const [vertices, faces] = [[], []];
    for (let side = 0; side < sides; side++) {
      const angle = (2 * Math.PI * side) / sides;
      const [c, s] = [STICK_RADIUS * Math.cos(angle), STICK_RADIUS * Math.sin(angle)];
      const offset = one.map((x, axis) => c * x + s * other[axis]);
      vertices.push(from.map((x, axis) => x + offset[axis]), to.map((x, axis) => x + offset[axis]));
      const [a, b] = [2 * side, (2 * side + 2) % (2 * sides)];
      faces.push([a, b, a + 1], [b, b + 1, a + 1]);
    }
    return { vertices, faces };
  }

  function drawStructure(element, view, index) {
    const size = MARGIN + view.positions.flat().reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const axis = { visible: false, range: [-size, size] };
    const layout = {
      margin: { l: 0, r: 0, t: 0, b: 0 },
      uirevision: "same", // keeps the orientation when another geometry is shown
      scene: {
        aspectmode: "manual", aspectratio: { x: SCALE, y: SCALE, z: SCALE },
        xaxis: axis, yaxis: axis, zaxis: axis, dragmode: "orbit",
        camera: { eye: { x: 0, y: 0, z: 1.25 }, up: { x: 0, y: 1, z: 0 }, projection: { type: "orthographic" } },
      },
    };
    const config = { ...CONFIG, modeBarButtons: BUTTONS.structure };
    return window.Plotly.react(element, [mesh(view, view.positions[index])], layout, config);
  }

  /** Draws structures and plots into the elements of a detail, and connects what chooses between structures. */
  physcon.drawFigures = (container, figures) => {
    const element = container.querySelector(".structure");
    const view = figures.structures;
    const choice = container.querySelector(".choice");
    const rows = [...container.querySelectorAll("[data-structure]")];
    const show = (index) => {
      drawStructure(element, view, index);
      if (choice) choice.value = String(index);
      rows.forEach((row) => row.classList.toggle("chosen", Number(row.dataset.structure) === index));
    };
    if (view) {
      show(view.shown);
      if (choice) choice.addEventListener("change", () => show(Number(choice.value)));
      rows.forEach((row) => {
        row.addEventListener("click", () => show(Number(row.dataset.structure)));
        row.addEventListener("keydown", (event) => event.key === "Enter" && show(Number(row.dataset.structure)));
      });
    }
    container.querySelectorAll(".plot").forEach((place, number) => {
      physcon.drawPlot(place, figures.plots[number]);
      place.on("plotly_click", ({ points }) => {
        const chosen = points.map((point) => point.customdata).find(Number.isInteger);
        if (view && chosen !== undefined) show(chosen);
      });
    });
  };

  physcon.drawPlot = (element, plot) => {
    element.style.height = `${plot.height}px`;
    return window.Plotly.newPlot(element, plot.data, plot.layout, { ...CONFIG, modeBarButtons: BUTTONS.plot });
  };

  /** Releases the drawings of a container; browsers limit their number. */
  physcon.clear = (container) => {
    container.querySelectorAll(".js-plotly-plot").forEach((element) => window.Plotly.purge(element));
    container.replaceChildren();
  };
})();
