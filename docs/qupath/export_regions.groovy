/*
 * QuPath to pathotune: the annotations of every image of the open project, one GeoJSON file an image.
 *
 * In QuPath: Automate > Script editor, open this file, Run (once; not "Run for project").
 * Then, with the folder of the slides and the folder that was written:
 *
 *     pathotune tune --slides SLIDES --regions REGIONS --out tumour
 *
 * A file is called like its slide's file, with .geojson behind it: a.svs.geojson belongs to a.svs.
 * Written from QuPath's documented scripting interface (0.5 and newer); it was not run when this was written.
 */
import qupath.lib.io.PathIO
import qupath.lib.common.GeneralTools

// Another folder than "regions" in the project's: put it here, for example new File("D:/study/regions").
File folder = null

// true: only annotations that have a class. Those without one are drawn, but teach nothing.
boolean classifiedOnly = true

def project = getProject()
if (project == null) {
    println "Open a project first."
    return
}
folder = folder ?: new File(project.getPath().toFile().getParentFile(), "regions")
folder.mkdirs()

// The name of the slide's own file; the name in the project may have been changed, or carry a scene.
def fileNameOf = { entry ->
    def uris = entry.getURIs()
    def path = uris.isEmpty() ? null : GeneralTools.toPath(uris.iterator().next())
    path == null ? entry.getImageName() : path.getFileName().toString()
}

def written = [:]
int empty = 0
for (entry in project.getImageList()) {
    def regions = entry.readHierarchy().getAnnotationObjects().findAll { !classifiedOnly || it.getPathClass() != null }
    if (regions.isEmpty()) {
        empty++
        continue
    }
    String name = fileNameOf(entry)
    if (written.containsKey(name)) {
        println "SKIPPED ${entry.getImageName()}: ${written[name]} has the same file name; rename one of the files."
        continue
    }
    PathIO.exportObjectsAsGeoJSON(new File(folder, name + ".geojson"), regions, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
    written[name] = entry.getImageName()
    println "${name}.geojson: ${regions.size()} regions"
}
println "Wrote ${written.size()} files to ${folder}; ${empty} images have no regions."
